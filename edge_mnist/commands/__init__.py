"""The commands: each parses, calls one library function, renders, and sets the exit code."""

"""Pictures for people, as PNG files: what was learned, what is read right, and what is not."""

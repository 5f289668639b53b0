"""Proving that a model file does what it says: parity, accuracy, robustness, limits."""

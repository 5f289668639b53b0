"""Validation and benchmark of model files: parity, accuracy, robustness, limits, speed."""

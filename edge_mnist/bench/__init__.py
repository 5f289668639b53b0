"""Measuring model files side by side; needs neither torch nor data."""

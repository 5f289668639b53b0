"""Plots of trainings, models and benchmarks, as PNG files."""

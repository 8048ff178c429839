"""Data sets for mm configs."""

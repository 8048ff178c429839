"""Metrics for mm configs."""

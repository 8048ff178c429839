"""Objectives on medical images and what their reports say, one file each."""

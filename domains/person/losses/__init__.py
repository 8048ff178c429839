"""Objectives for pictures of people, one file each, found by their names."""

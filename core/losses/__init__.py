"""Objectives, one a file; `build_loss(name)` finds them by file name."""

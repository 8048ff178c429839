"""Objectives, one per file; `build_loss(name)` finds them by file name."""

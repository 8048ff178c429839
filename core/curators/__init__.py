"""Curators of pairs of image and text, one per file; `build_curator(name)` finds them by file name."""

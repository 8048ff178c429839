"""How an image and words become one query, one way per file; `build_composition(name)` finds them by file name."""

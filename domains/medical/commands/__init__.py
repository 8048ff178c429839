"""Commands of the medical domain, one per file."""

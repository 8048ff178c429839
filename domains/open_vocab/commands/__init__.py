"""Commands of the open-vocab domain, one per file."""

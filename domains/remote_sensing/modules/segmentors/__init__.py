"""Models of two dates, and of numbers per pixel."""

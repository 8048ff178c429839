"""Training windows of models of two dates, and of numbers per pixel."""

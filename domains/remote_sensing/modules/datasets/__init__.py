"""What models of two dates learn from."""

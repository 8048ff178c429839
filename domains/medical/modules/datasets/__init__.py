"""What models of volumes learn from."""

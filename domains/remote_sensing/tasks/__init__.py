"""Tasks of remote sensing alone."""

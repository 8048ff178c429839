"""Tasks of pictures from above besides those that all domains share."""

"""Tasks of medical images besides those that all domains share."""

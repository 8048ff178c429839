"""Models that segment volumes."""

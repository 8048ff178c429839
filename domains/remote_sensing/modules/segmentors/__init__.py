"""Models that see two dates."""

"""Pairs of image and text, gathered into one table; curators run on it; what they decide, as files."""

"""Semantic localisation: where in a picture from above a sentence is true."""

"""Sentences about pictures of people: from what a tower sees in them, or from lists of their attributes."""

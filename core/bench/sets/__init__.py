"""Kinds of sets; the name of a file is the name of the kind."""

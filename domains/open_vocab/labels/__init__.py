"""Data sets of labels: what a model found, written for `fit` and for other programs, and reviewed by people."""

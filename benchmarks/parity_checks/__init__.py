"""Comparisons with outputs of the public reference code, a file for each group of methods and two for the objectives.

Each file has `GROUPS`, functions from `Fixtures` to the comparisons of a method, and `DEVIATIONS`, where a method
differs from its released code on purpose, or what it is checked against where there is no fixture.
"""

"""Comparisons with outputs of the public reference code, a file for each group of methods and two for the objectives.

Each file has `GROUPS`, the `Comparison`s of its methods. Where a method differs from its released code on purpose, or
what it is checked against where there is no fixture, its own file says (`differs`); `DEVIATIONS` says it of what is no
adapter and no loss. `fixtures` reads a folder of reference outputs
of any sizes and settings. The page and the tests of the methods run the same comparisons.
"""

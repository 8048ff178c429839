"""What docs/measurements/trust.md shows, one file per table: reported against true AUROC, unequal classes, coverage,
calibration, classes present, unlike images, and what a call costs.

Each has `lines(data)`, which measures and yields the lines of its table, Markdown. `sets` has the public and the
generated data that they share; a public set that is absent is passed over, with a line that says so.
"""

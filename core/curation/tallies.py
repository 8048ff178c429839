"""Counts of pairs before and after, and thresholds of scores, read from decisions out of core."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..contracts.curator import PairTable
from .decide import SCORE
from .stored import database
from .table import decided

QUANTILES = 64
SIZES = (100, 200, 400, 800, 1600)
MOST_NAMED = 12


@dataclass(frozen=True)
class DecisionTally:
    """Pairs of one kind."""

    name: str
    before: int
    after: int


def thresholds(decisions: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Score -> (share of the pairs that are at or above a value, the values, ascending)."""
    import pyarrow.parquet as pq

    files = decided(str(decisions))
    names = [name for name in pq.read_schema(files[0]).names if name.startswith(SCORE)]
    levels = np.linspace(0, 1, QUANTILES + 1).tolist()
    made = {}
    with database() as base:
        for name in names:
            query = f'SELECT quantile_cont("{name}", ?) FROM read_parquet(?, hive_partitioning = false)'
            query += f' WHERE isfinite("{name}")'
            values = base.execute(query, [levels, files]).fetchall()[0][0]
            if values is not None and values[0] < values[-1]:
                made[name] = ([1 - level for level in levels], [float(value) for value in values])
    return made


def words_by(table: PairTable, column: str, kept: np.ndarray) -> list[DecisionTally]:
    """Pairs by what stands in a column of strings, the most frequent first; the rest is one row.

    Args:
        kept: (M,) positions.
    """
    import pyarrow.compute as pc

    values = table.columns[column]
    counts = [
        {each["values"]: each["counts"] for each in pc.value_counts(some).to_pylist()}
        for some in (values, values.take(kept))
    ]
    names = sorted(counts[0], key=lambda name: -counts[0][name])
    tallies = [
        DecisionTally(str(name or "not told"), counts[0][name], counts[1].get(name, 0)) for name in names[:MOST_NAMED]
    ]
    rest = names[MOST_NAMED:]
    if rest:
        tallies.append(DecisionTally("others", *(sum(each.get(name, 0) for name in rest) for each in counts)))
    return tallies


def sizes(table: PairTable, kept: np.ndarray) -> list[DecisionTally]:
    """Pairs by the shorter side of their images in pixels.

    Args:
        kept: (M,) positions.
    """
    shorter = np.minimum(table.numbers("width"), table.numbers("height")).astype(np.float64)
    measured = np.isfinite(shorter) & (shorter > 0)
    bins = np.where(measured, np.digitize(shorter, SIZES), len(SIZES) + 1)
    counts = [np.bincount(some, minlength=len(SIZES) + 2) for some in (bins, bins[kept])]
    between = (f"{low} to {high - 1}" for low, high in pairwise(SIZES))
    names = [f"below {SIZES[0]}", *between, f"{SIZES[-1]} and more", "not known"]
    tallies = [DecisionTally(name, int(before), int(after)) for name, before, after in zip(names, *counts)]
    return tallies if counts[0][-1] else tallies[:-1]

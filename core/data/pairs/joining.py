"""Rows that share an image, found and joined with array operations."""

from __future__ import annotations

import numpy as np

from .columns import Ragged, firsts


def leaders_of(digests: np.ndarray) -> np.ndarray | None:
    """(N,) for each row the first row of the same image; None if no two rows share one.

    Args:
        digests: (N, 2) uint64, equal for equal images.
    """
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: within an image rows keep their order
    ordered = digests[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    if begins.all():
        return None
    leaders = np.empty(len(order), np.int64)
    leaders[order] = order[begins][np.cumsum(begins) - 1]
    return leaders


def first_given(values: np.ndarray, given: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """(N,) the first value that an image's rows give, at each of them; where none gives one, the first row's own."""
    agreed = values.copy()
    rows = np.flatnonzero(given)
    images, where = np.unique(leaders[rows], return_index=True)  # the first of each
    agreed[images] = values[rows[where]]
    return agreed[leaders]


def regrouped(column: Ragged, leaders: np.ndarray, kept: np.ndarray) -> Ragged:
    """The column with one row an image, in order of first rows, each with the texts of its rows.

    Args:
        column: N rows.
        leaders: (N,) from `leaders_of`.
        kept: rows whose texts count, ascending; the first row of every image is among them.
    """
    order = kept[np.argsort(leaders[kept], kind="stable")]
    counts = column.counts[order]
    total = int(counts.sum())
    shift = column.first[order].astype(np.int64) - (np.cumsum(counts) - counts)
    places = np.repeat(shift, counts) + np.arange(total)
    begins = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    return Ragged(column.strings.take(places), firsts(np.add.reduceat(counts, begins)))

"""Features that pairs are compared with: of a target task or of test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, PairTable
from ..errors import DataError, shortened
from ._ranks import PAIRS_AT_ONCE

DIRECTIONS, ROUNDING = 8, 5e-3
"""How far a row of length 1 moves at most when its numbers are rounded to float16 or bfloat16."""


@dataclass(frozen=True, eq=False)
class _Target:
    """Features that the user brings.

    Args:
        features: (M, D) float32 rows of length 1.
        ids: M of them, or none.
        encoder: "" where the file does not say.
        place: file or folder that they come from.
    """

    features: np.ndarray
    ids: tuple[str, ...]
    encoder: str
    place: str

    def overlap(self, pairs: PairTable, kind: str = IMAGE_FEATURES) -> tuple[str, ...]:
        """A sentence where some of them are pairs of the pool too, by id or by row; else nothing."""
        ids, near, count = set(self.ids), _near(self.features), 0
        for rows in pairs.blocks(PAIRS_AT_ONCE):
            same = near(pairs.unit(kind, rows))
            if ids:
                same |= np.fromiter((name in ids for name in pairs.names(rows)), bool, len(same))
            count += int(same.sum())
        if not count:
            return ()
        cure = "they lie nearest to themselves; run the stage decontaminate first"
        return (f"{count} of {len(pairs)} pairs are in {shortened(self.place)} too, by id or features: {cure}",)


def read_target(place: str, pairs: PairTable, kind: str = IMAGE_FEATURES, array: str = "") -> _Target:
    """Features of a file or folder, which must be of the encoder of the pairs.

    Args:
        place: what `vladapt embed` writes (.safetensors, a folder of Parquet shards), an .npz with the array `kind`, or
            an .npy (M, D).
        pairs: have the column `kind`.
        kind: `IMAGE_FEATURES` or `CAPTION_FEATURES`.
        array: what they are called there, by default `kind`.

    Raises:
        DataError: it cannot be read, has no such features, or those of another encoder or width.
    """
    from ..features.files import load_rows

    array = array or kind
    rows, ids, encoder = load_rows(place, array)
    if encoder and pairs.encoder and encoder != pairs.encoder:
        raise DataError(
            f"{place}: {array} of encoder {shortened(encoder, 40)}, the pairs' are of {shortened(pairs.encoder, 40)}; "
            f"embed both with one backbone, or, if these are two names of one, give --encoder NAME={encoder}"
        )
    width = pairs.numbers(kind, slice(0, 1)).shape[1]
    if rows.shape[1] != width:
        raise DataError(
            f"{place}: {rows.shape[1]} numbers per row, the pairs have {width}; embed both with one backbone"
        )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    features = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return _Target(features, ids or (), encoder, place)


def _near(rows: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of (M, D) unit rows, what flags those of (N, D) that are one of them but for rounding.

    A few numbers of each, along fixed directions, tell the only one of the M that it can be: projected rows are no
    farther apart than whole ones.
    """
    from scipy.spatial import cKDTree

    rows = np.nan_to_num(rows)
    drawn = np.random.default_rng(0).normal(size=(rows.shape[1], min(DIRECTIONS, rows.shape[1])))
    directions = np.linalg.qr(drawn)[0].astype(np.float32)  # (D, 8)
    tree = cKDTree(rows @ directions)

    def flags(others: np.ndarray) -> np.ndarray:
        others = np.nan_to_num(others)
        nearest = tree.query(others @ directions, distance_upper_bound=ROUNDING)[1]
        same = nearest < len(rows)
        same[same] = np.linalg.norm(others[same] - rows[nearest[same]], axis=1) < ROUNDING
        return same

    return flags

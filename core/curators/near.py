"""Near copies: images whose perceptual hashes are a few bits apart, and which an encoder finds the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import DataError
from ._copies import SIZES, Edges, best_of, groups_of, preference, score_option

HASH = "phash"
"""Column of 64-bit perceptual hashes; 0 where there is none."""
ROUNDS = 16
"""In which the best of all groups is compared with the others of its own; what is left is compared group by group."""
MOST_COMPARED, LEADERS_AT_ONCE = 2**30, 256
"""Cosines taken of what is left at most: 32,768 images of one group, or many small groups."""
ROWS_AT_ONCE = 16_384


@dataclass(eq=False, kw_only=True)
class Near(Curator):
    """Hashes of 64 bits (`core/data/thumbnails.py`, or the user's own) are searched in bands, so that every two
    within `distance` bits are met. These are tied, and what is tied through others is one group. Of a group one stays:
    the largest image, then the one of the best pair score, then the one of the smallest id. Another is dropped where
    the cosine of its image features with this one is at least `cosine`; those that are not alike are compared with the
    best among them, in turn. Without features, hashes alone decide. Both numbers are scores: bits and cosine between a
    pair and the one that stays for it.

    Features never tie pairs that hashes do not: semantic neighbours, such as two radiographs, are no copies.

    Hashes do not survive crops, borders or mirroring.

    Example:
        >>> build_curator("near", distance=6).decide_all(pairs).keep.sum()
        900
    """

    stage: ClassVar[str] = "dedup"

    distance: int = option(4, "bits in which the hashes of two copies differ at most", low=0, high=16)
    cosine: float = option(
        0.9, "least cosine of the image features of two copies; 0 to go by hashes alone", low=0.0, high=1.0
    )
    score: str = score_option()

    @property
    def reads(self) -> tuple[str, ...]:
        return (HASH, *SIZES, *([self.score] if self.score else []))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        from ..data import bits_apart

        hashes = hashes_of(pairs)
        groups = groups_of(len(pairs), near_edges(hashes, self.distance))
        rank, notes = preference(pairs, self.score), []
        best = best_of(groups, rank)
        by_hash = int((best != np.arange(len(pairs))).sum())
        cosines = np.ones(len(pairs), np.float32)
        confirms = self.cosine > 0 and IMAGE_FEATURES in pairs
        if confirms:
            best, cosines, left = confirmed(pairs, groups, rank, self.cosine)
            if left:
                notes.append(f"{left:,} pairs stay unexamined: too many share their hashes to compare them all.")
        dropped = best != np.arange(len(pairs))
        confirmation = (
            f"features confirm {dropped.sum():,} of these" if confirms else "there are no features to confirm it"
        )
        confirmation = f"; {confirmation}" if self.cosine else ""
        first = f"{by_hash:,} of {len(pairs):,} pairs are near copies by their hashes{confirmation}."
        rows = {"dropped": dropped, "bits": bits_apart(hashes, hashes[best]), "cosine": cosines}
        return Survey(rows=rows, notes=(first, *notes))

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        scores = {name: survey.rows[name].astype(np.float32) for name in ("bits", "cosine")}
        return Decision.of({"near copy": survey.rows["dropped"]}, scores=scores)


def hashes_of(pairs: PairTable) -> np.ndarray:
    """(N,) uint64 of the column.

    Raises:
        DataError: it is not of whole numbers.
    """
    hashes = pairs.numbers(HASH)
    if hashes.dtype.kind not in "iu" or hashes.ndim != 1:
        raise DataError(
            f"column '{HASH}': {hashes.dtype} of shape {hashes.shape}; give one whole number of 64 bits per pair"
        )
    return hashes.astype(np.uint64)


def near_edges(hashes: np.ndarray, distance: int) -> Iterator[Edges]:
    """Edges between positions whose hashes are at most so many bits apart; of 0 there are none.

    Args:
        hashes: (N,) uint64.
    """
    from ..data import near_pairs

    hashed = np.flatnonzero(hashes)
    for one, other, _ in near_pairs(hashes[hashed], distance):
        yield hashed[one], hashed[other]


def confirmed(
    pairs: PairTable, groups: np.ndarray, rank: np.ndarray, least: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """What of each group is a copy of the best by its features too; the others are a group of their own, in turn.

    Args:
        groups: (N,) of `groups_of`.
        rank: (N,) of `preference`.
        least: cosine.

    Returns:
        (N,) position of the copy that stays, its own where that is the pair; (N,) cosine with it; and how many pairs
        are in groups too large to be compared whole, and stay.
    """
    best, cosines = np.arange(len(pairs)), np.ones(len(pairs), np.float32)
    open_ = np.flatnonzero(np.bincount(groups)[groups] > 1)
    for _ in range(ROUNDS):
        if not len(open_):
            break
        others = open_[best_of(groups[open_], rank[open_])]
        alike = np.empty(len(open_), np.float32)
        for start in range(0, len(open_), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            one, other = (pairs.unit(IMAGE_FEATURES, rows[some]) for rows in (open_, others))
            both = one.any(axis=1) & other.any(axis=1)  # of a pair without features its hash decides
            alike[some] = np.where(both, (one * other).sum(axis=1), 1)
        alike[open_ == others] = 1
        same = alike >= least
        best[open_[same]], cosines[open_[same]] = others[same], alike[same]
        open_ = open_[~same]
    left, compared = 0, 0
    _, number, sizes = np.unique(groups[open_], return_inverse=True, return_counts=True)
    members = np.split(open_[np.lexsort((rank[open_], number))], np.cumsum(sizes)[:-1]) if len(open_) else []
    for group in sorted(members, key=len):
        compared += len(group) ** 2
        if compared > MOST_COMPARED:
            left += len(group)
            continue
        of, alike = _first_alike(pairs.unit(IMAGE_FEATURES, group), least)
        best[group], cosines[group] = group[of], alike
    return best, cosines, left


def _first_alike(units: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """(M,) which of the rows that stay is the first that each row is alike to, itself where it stays; (M,) cosine.

    Args:
        units: (M, D), the best first.
    """
    of, cosines = np.arange(len(units)), np.ones(len(units), np.float32)
    open_ = np.arange(len(units))
    while len(open_):
        some, rest = open_[:LEADERS_AT_ONCE], open_[LEADERS_AT_ONCE:]
        among = units[some] @ units[some].T
        stays = np.ones(len(some), bool)
        for row in range(len(some)):
            if stays[row]:
                copies = row + 1 + np.flatnonzero(stays[row + 1 :] & (among[row, row + 1 :] >= least))
                stays[copies], of[some[copies]], cosines[some[copies]] = False, some[row], among[row, copies]
        leaders = some[stays]
        alike = units[rest] @ units[leaders].T
        first = (alike >= least).argmax(axis=1)
        alike = alike[np.arange(len(rest)), first]
        same = alike >= least
        of[rest[same]], cosines[rest[same]] = leaders[first[same]], alike[same]
        open_ = rest[~same]
    return of, cosines

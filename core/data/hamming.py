"""Which of many perceptual hashes of 64 bits are a few bits apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .nearest import faiss_library

BITS, BANDS = 64, 3
QUERIES_AT_ONCE = 65_536


def bits_apart(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) Hamming distances of (N,) hashes and (N,) others."""
    differing = np.ascontiguousarray(hashes ^ others).view(np.uint8).reshape(-1, 8)
    return np.unpackbits(differing, axis=1).sum(axis=1, dtype=np.int64)


def hashes_within(
    hashes: np.ndarray, others: np.ndarray, distance: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of hashes that differ in at most so many bits, some at a time: rows, rows of the others, distances.

    The others are held in three bands of 21 bits. Two hashes that differ in at most d bits differ in at most d // 3 of
    them in one band, so every pair is found: "Fast Search in Hamming Space with Multi-Index Hashing" (Norouzi, Punjani
    and Fleet, 2012), by faiss. Of many equal hashes give one.

    Args:
        hashes: (N,) uint64.
        others: (M,) uint64.
        distance: at most 10 is quick.

    Raises:
        CapabilityError: faiss is not installed.
    """
    faiss = faiss_library()
    index = faiss.IndexBinaryMultiHash(BITS, BANDS, BITS // BANDS)
    index.nflip = distance // BANDS
    index.add(_as_bytes(others))
    for start in range(0, len(hashes) if len(others) else 0, QUERIES_AT_ONCE):
        some = _as_bytes(hashes[start : start + QUERIES_AT_ONCE])
        limits, apart, columns = index.range_search(some, distance + 1)
        rows = start + np.repeat(np.arange(len(some)), np.diff(limits).astype(np.int64))
        yield rows, columns, apart.astype(np.int64)


def near_pairs(
    hashes: np.ndarray, distance: int, small: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of positions whose hashes are at most so many bits apart, some at a time: positions, other positions,
    distances. Many positions of one hash are a chain, and of every two such hashes one pair stands for all of theirs.

    Args:
        hashes: (N,) uint64.
        distance: as of `hashes_within`.
        small: number of positions of one hash up to which all pairs are given.

    Raises:
        CapabilityError: faiss is not installed.
    """
    order = np.argsort(hashes, kind="stable")
    _, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    few = np.repeat(counts <= small, counts)
    for lag in range(1, max(2, small)):
        same = (hashes[order[lag:]] == hashes[order[:-lag]]) & (few[lag:] | (lag == 1))
        yield order[:-lag][same], order[lag:][same], np.zeros(same.sum(), np.int64)
    by_first = np.argsort(order[starts])
    starts, members = starts[by_first], np.where(counts <= small, counts, 1)[by_first]
    first = order[starts]
    for rows, columns, apart in hashes_within(hashes[first], hashes[first], distance):
        once = rows < columns
        rows, columns, apart = rows[once], columns[once], apart[once]
        times = members[rows] * members[columns]
        number = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        rows, columns = np.repeat(rows, times), np.repeat(columns, times)
        one, other = np.divmod(number, members[columns])
        yield order[starts[rows] + one], order[starts[columns] + other], np.repeat(apart, times)


def _as_bytes(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)

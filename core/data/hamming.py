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


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of positions whose hashes are at most so many bits apart, some at a time: positions, other positions,
    distances. Positions of one hash are a chain, and of every two hashes one pair stands for all of theirs.

    Args:
        hashes: (N,) uint64.
        distance: as of `hashes_within`.

    Raises:
        CapabilityError: faiss is not installed.
    """
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    yield order[:-1][same], order[1:][same], np.zeros(same.sum(), np.int64)
    first = np.sort(order[np.concatenate([[True], ~same])] if len(order) else order)
    for rows, columns, apart in hashes_within(hashes[first], hashes[first], distance):
        once = rows < columns
        yield first[rows[once]], first[columns[once]], apart[once]


def _as_bytes(hashes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(hashes, dtype=np.uint64).view(np.uint8).reshape(-1, 8)

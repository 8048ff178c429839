"""Groups of copies, and which of a group stays: the largest image, then the best pair, then the smallest id."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, PairTable
from ..contracts.options import option

SIZES = ("width", "height")
Edges = tuple[np.ndarray, np.ndarray]
"""Two arrays of positions; pairs at the same place are copies."""
MOST_EDGES = 2**22
"""That are held before they are merged into groups."""


def score_option() -> str:
    """The option of what makes the best of several copies."""
    return option(
        "",
        "column of numbers; of equally large copies the highest is kept; by default the cosine of image and caption",
    )


def preference(pairs: PairTable, score: str = "") -> np.ndarray:
    """(N,) rank of each pair, 0 for the one that is kept before all others.

    More pixels come first, where there are columns of `SIZES`; then the higher score; then the smaller id.

    Args:
        score: column of numbers; "" for the cosine of image and caption, where there are features of both.
    """
    pixels, quality = np.zeros(len(pairs)), np.zeros(len(pairs), np.float32)
    if all(name in pairs for name in SIZES):
        width, height = (pairs.numbers(name).astype(np.float64) for name in SIZES)
        pixels = width * height
    if score:
        quality = pairs.numbers(score).astype(np.float32)
    elif IMAGE_FEATURES in pairs and CAPTION_FEATURES in pairs:
        for rows in pairs.blocks():
            quality[rows] = (pairs.unit(IMAGE_FEATURES, rows) * pairs.unit(CAPTION_FEATURES, rows)).sum(axis=1)
    order = np.lexsort((-np.nan_to_num(quality, nan=-np.inf), -np.nan_to_num(pixels)))
    rank = np.empty(len(pairs), np.int64)
    rank[order] = np.arange(len(pairs))
    return rank


def digests(strings: Sequence[str]) -> np.ndarray:
    """(N, 2) uint64, equal where the strings are; zeros of an empty one."""
    zero = bytes(16)
    joined = b"".join(hashlib.blake2b(s.encode(), digest_size=16).digest() if s else zero for s in strings)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


def plain_sum(text: str) -> str:
    """A sum in hexadecimal digits as it is compared: in lower case."""
    return text.strip().lower()


def content_digests(pairs: PairTable, name: str, as_written: Callable[[str], str] = lambda text: text) -> np.ndarray:
    """(N, 2) uint64 `digests` of a column of strings, read some at a time.

    Args:
        as_written: what is done to each string before.
    """
    return np.concatenate([digests([as_written(s) for s in pairs.strings(name, rows)]) for rows in pairs.blocks()])


def equal_rows(values: np.ndarray) -> np.ndarray:
    """(N,) int64, the same number for rows that are equal, and -1 for rows of zeros.

    Args:
        values: (N, K) uint64.
    """
    order = np.lexsort(values.T)
    first = np.ones(len(values), bool)
    first[1:] = (values[order[1:]] != values[order[:-1]]).any(axis=1)
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(first) - 1
    numbers[~values.any(axis=1)] = -1
    return numbers


def ties(numbers: np.ndarray) -> Edges:
    """Edges that tie all positions of the same number, one less than there are; those of -1 are tied to none."""
    order = np.argsort(numbers, kind="stable")
    same = (numbers[order[1:]] == numbers[order[:-1]]) & (numbers[order[1:]] >= 0)
    return order[:-1][same], order[1:][same]


def groups_of(count: int, edges: Iterable[Edges]) -> np.ndarray:
    """(N,) int64, the same number for all that edges join, directly or through others.

    Args:
        count: N.
        edges: some at a time; no more than so many are held.
    """
    first, second, held = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for one, other in edges:
        first.append(one)
        second.append(other)
        held += len(one)
        if held > MOST_EDGES:  # a tie per position says as much
            one, other = ties(_components(count, first, second))
            first, second, held = [one], [other], 0
    return _components(count, first, second)


def best_of(groups: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """(N,) position of the one of each group that has the lowest rank."""
    order = np.lexsort((rank, groups))
    starts = np.ones(len(groups), bool)
    starts[1:] = groups[order[1:]] != groups[order[:-1]]
    best = np.empty(len(groups), np.int64)
    best[order] = order[np.maximum.accumulate(np.where(starts, np.arange(len(groups)), 0))]
    return best


def _components(count: int, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate(first), np.concatenate(second)
    graph = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)

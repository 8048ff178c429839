"""k-reciprocal re-ranking: neighbours that are each other's neighbours come nearer.

"Re-ranking Person Re-identification with k-reciprocal Encoding" (Zhong et al. 2017, arXiv 1701.08398). Of N pictures,
queries and gallery together, a sparse row of weights each is held, and a block of rows of distances at a time; what is
given back is one number for each query and picture of the gallery. Published code holds two matrices of N x N.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ...core.errors import ConfigError

K1, K2, WEIGHT = 20, 6, 0.3
"""As published: neighbours that may be reciprocal, neighbours that weights are averaged over, share of the distance."""
NUMBERS_AT_ONCE = 1 << 24
ENOUGH = 2 / 3
"""So much of a neighbour's own set must lie in the first one's for it to be added."""

Rows = Callable[[np.ndarray], np.ndarray]
"""(n,) of N pictures -> (n, N) squared Euclidean distances."""


def re_ranked(
    query: Tensor,
    gallery: Tensor,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
    own: Tensor | None = None,
) -> Tensor:
    """(Q, G) float32 distances after re-ranking.

    Args:
        query, gallery: (Q, D), (G, D) features.
        k1: how many nearest are looked at.
        k2: over how many nearest, itself among them, the weights are averaged.
        weight: of the distance itself; the rest is Jaccard's.
        own: (Q,) where a query itself stands in the gallery, so that it counts once among the pictures; -1, or None,
            where it does not.

    Raises:
        ConfigError: k1 or k2 is more than there are pictures.
    """
    outside = torch.ones(len(query), dtype=torch.bool) if own is None else own.cpu() < 0
    features = torch.cat([query[outside.to(query.device)], gallery]).float()
    count = int(outside.sum())
    place = torch.where(outside, outside.cumsum(dim=0) - 1, 0 if own is None else own.cpu() + count).numpy()
    return re_ranked_by(lambda some: _squared(features[some], features), place, count, len(features), k1, k2, weight)


def memory_in_words(queries: int, gallery: int, k1: int = K1) -> str:
    """What re-ranking holds, for whoever waits for it: "re-ranking 3,368 queries in 15,913 pictures holds 0.3 GiB"."""
    total = queries + gallery
    held = 4 * queries * gallery + 12 * total * 8 * k1 + 12 * NUMBERS_AT_ONCE
    return f"re-ranking {queries:,} queries in {gallery:,} pictures holds about {held / 2**30:.1f} GiB"


def _squared(some: Tensor, features: Tensor) -> np.ndarray:
    squares = some.square().sum(dim=1)[:, None] + features.square().sum(dim=1) - 2 * some @ features.T
    return squares.clamp(min=0).cpu().numpy()


def re_ranked_by(rows: Rows, queries: np.ndarray, outside: int, total: int, k1: int, k2: int, weight: float) -> Tensor:
    """Of the queries, which are some of N pictures; the gallery are those from `outside` on."""
    if not 1 <= k2 <= total or not 1 <= k1 < total:
        raise ConfigError(f"re-ranking with k1={k1} and k2={k2} needs more than {total} pictures; give smaller values")
    everyone = np.arange(total)
    near = np.concatenate([_nearest(squared, k1 + 1, some) for some, squared in _blocks(rows, everyone, total)])
    parts = [_weights(squared, some, near, k1) for some, squared in _blocks(rows, everyone, total)]
    weights = sparse.vstack(parts).tocsr()
    if k2 > 1:
        at = np.arange(0, (total + 1) * k2, k2)
        mean = sparse.csr_matrix((np.full(total * k2, 1 / k2, np.float32), _first(rows, near, total, k2).ravel(), at))
        weights = (mean @ weights).tocsr()
    by_column, final = weights.tocsc(), []
    for some, squared in _blocks(rows, queries, total):
        part = (1 - weight) * np.stack([_jaccard(weights, by_column, row) for row in some])
        final.append((part + weight * _scaled(squared))[:, outside:].astype(np.float32))
    return torch.from_numpy(np.concatenate(final))


def _blocks(rows: Rows, pictures: np.ndarray, total: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(n,) of some pictures and their squared distances (n, N), one block after the other."""
    step = max(1, NUMBERS_AT_ONCE // total)
    for start in range(0, len(pictures), step):
        some = pictures[start : start + step]
        yield some, rows(some)


def _scaled(squared: np.ndarray) -> np.ndarray:
    """Each row divided by its largest."""
    return squared / np.maximum(squared.max(axis=1, keepdims=True), np.finfo(squared.dtype).tiny)


def _nearest(squared: np.ndarray, count: int, pictures: np.ndarray) -> np.ndarray:
    """(n, count) the nearest of each of (n,) pictures, nearest first; itself before others that are as near."""
    squared = squared.copy()
    squared[np.arange(len(squared)), pictures] = -1
    some = np.argpartition(squared, count - 1, axis=1)[:, :count]
    order = np.take_along_axis(squared, some, axis=1).argsort(axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def _first(rows: Rows, near: np.ndarray, total: int, count: int) -> np.ndarray:
    """(N, count) nearest, of `near` where it has so many."""
    if count <= near.shape[1]:
        return near[:, :count]
    return np.concatenate([_nearest(each, count, some) for some, each in _blocks(rows, np.arange(total), total)])


def _weights(squared: np.ndarray, pictures: np.ndarray, near: np.ndarray, k1: int) -> sparse.csr_matrix:
    """(n, N): of each picture the weights exp(-distance) of its reciprocal neighbours and of what is added, sum 1."""
    half, scaled, total = round(k1 / 2) + 1, _scaled(squared), squared.shape[1]
    member = np.zeros(total, bool)
    columns, values, ends = [], [], [0]
    for picture, distance in zip(pictures, scaled):
        own = _reciprocal(near, np.array([picture]), near.shape[1])[0]
        member[own] = True
        sets = _reciprocal(near, own, half)
        added = [each for each in sets if member[each].sum() > ENOUGH * len(each)]
        member[own] = False
        expanded = np.unique(np.concatenate([own, *added]))
        weight = np.exp(-distance[expanded])
        columns.append(expanded)
        values.append(weight / weight.sum())
        ends.append(ends[-1] + len(expanded))
    shape = len(scaled), total
    return sparse.csr_matrix((np.concatenate(values).astype(np.float32), np.concatenate(columns), ends), shape)


def _reciprocal(near: np.ndarray, pictures: np.ndarray, count: int) -> list[np.ndarray]:
    """Of each picture those of its `count` nearest, itself among them, that have it among theirs."""
    nearest = near[pictures, :count]  # (n, count)
    back = (near[nearest, :count] == pictures[:, None, None]).any(axis=2)  # (n, count)
    return [each[known] for each, known in zip(nearest, back)]


def _jaccard(weights: sparse.csr_matrix, by_column: sparse.csc_matrix, row: int) -> np.ndarray:
    """(N,) distances of a row of weights to all rows: 1 - sum of minima / sum of maxima, of rows that sum to 1."""
    mine = weights[row]
    others = by_column[:, mine.indices]  # (N, m)
    least = np.minimum(others.data, np.repeat(mine.data, np.diff(others.indptr)))
    shared = np.bincount(others.indices, least, minlength=weights.shape[0])
    return 1 - shared / (2 - shared)

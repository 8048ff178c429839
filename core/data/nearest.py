"""Nearest neighbours without an (N, N) matrix, and the library that finds them among millions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CapabilityError

SEARCHED_WHOLE = 20_000
"""Points up to which each is compared with all others."""
POINTS_A_CELL, CELLS_SEARCHED = 100, 200
"""Of more points, those around one centre, and how many of the centres near a point's own are looked around."""
POINTS_OF_MEAN, MEANS = 32, 3
"""Of each centre, and how often the means are taken."""
CHUNK_ELEMENTS = 2**24  # of a (rows, N) block of cosines: 64 MiB
GROUP = 32  # keys whose best cosine is found first


def nearest_rows(rows: Tensor, keys: Tensor, count: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and indices of the `count` keys nearest to each row, the nearest first; all keys where there are fewer.

    Args:
        rows: (B, D) unit rows.
        keys: (N, D) unit rows.
        count: how many.
        skip_self: row i is key i, and is not a neighbour of itself.

    Returns:
        cosines (B, K) and indices (B, K).
    """
    count = max(0, min(count, len(keys) - int(skip_self)))
    if not count or not len(rows):
        return rows.new_zeros(len(rows), count), torch.zeros(len(rows), count, dtype=torch.long, device=rows.device)
    group = max(1, min(GROUP, len(keys) // (GROUP * count)))
    width = -(-len(keys) // group) * group
    step = max(1, min(len(rows), CHUNK_ELEMENTS // width))
    buffer = rows.new_full((step, width), -torch.inf)  # columns beyond the keys stay -inf
    parts = []
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        cosines = buffer[: len(block)]
        torch.mm(block, keys.T, out=cosines[:, : len(keys)])
        if skip_self:
            cosines[:, start : start + len(block)].fill_diagonal_(-torch.inf)
        parts.append(_largest(cosines, count, group))
    cosines, index = zip(*parts)
    return torch.cat(cosines), torch.cat(index)


def _largest(values: Tensor, count: int, group: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row: they lie in the `count` groups of columns with the largest maxima.

    Maxima of groups are one fast sweep; only 1 / `group` of the columns, and then a few groups, are ranked.
    """
    groups = values.shape[1] // group
    best = values.view(len(values), group, groups).amax(dim=1)  # (B, N / group)
    chosen = best.topk(count, dim=1).indices  # (B, K)
    members = torch.arange(group, device=values.device) * groups
    columns = (chosen[:, :, None] + members).flatten(1)  # (B, K * group)
    largest, place = values.gather(1, columns).topk(count, dim=1)
    return largest, columns.gather(1, place)


def nearest_points(points: Tensor, count: int) -> Tensor:
    """(N, K) indices of the points nearest to each, by Euclidean distance, itself among them.

    Of up to 20,000 points the `count` nearest. Of more, those of the cells around the nearest centres alone: an
    inverted file ("Video Google: A Text Retrieval Approach to Object Matching in Videos", Sivic and Zisserman, 2003).

    Args:
        points: (N, D) float32.
    """
    if len(points) <= SEARCHED_WHOLE:
        return _nearest_to(points, points, count)
    centres, cell_of = _cells(points, len(points) // POINTS_A_CELL)
    near = _nearest_to(centres, centres, CELLS_SEARCHED)
    members = cell_of.argsort(stable=True).split(torch.bincount(cell_of).tolist())
    nearest = torch.zeros(len(points), count, dtype=torch.long)
    for own, others in zip(members, near):
        candidates = torch.cat([members[cell] for cell in others])
        nearest[own] = candidates[_nearest_to(points[own], points[candidates], count)]
    return nearest


def _cells(points: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Centres that have points around them, (C, D), and the one that each point is nearest to, (N,): by k-means on some
    of the points."""
    drawn = points[:: max(1, len(points) // (POINTS_OF_MEAN * most))]
    centres = drawn[:: len(drawn) // most]
    for _ in range(MEANS):
        cell_of = _nearest_to(drawn, centres, 1)[:, 0]
        counts = torch.bincount(cell_of, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, cell_of, drawn)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    occupied, cell_of = _nearest_to(points, centres, 1)[:, 0].unique(return_inverse=True)
    return centres[occupied], cell_of


def _nearest_to(points: Tensor, others: Tensor, count: int) -> Tensor:
    """(N, K) indices of the nearest of other points, as those of the largest products with one more dimension."""
    keys = torch.cat([others, -(others**2).sum(dim=1, keepdim=True) / 2], dim=1)
    return nearest_rows(torch.cat([points, torch.ones(len(points), 1)], dim=1), keys, count)[1]


def faiss_library() -> Any:
    """The module faiss.

    Raises:
        CapabilityError: it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise CapabilityError(
            "indexing and searching need the package 'faiss-cpu'; install it with: pip install 'vladapt[retrieval]'"
        ) from error
    return faiss

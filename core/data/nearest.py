"""Nearest neighbours without an (N, N) matrix, and the library that finds them among millions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CapabilityError

POINTS_A_CELL, POINTS_OF_MEAN, MEANS = 300, 16, 2
"""Points around one centre, of each centre those that it is the mean of, and how often the means are taken."""
ROWS_AT_ONCE = 512
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

    Args:
        points: (N, D) float32.
    """
    keys = torch.cat([points, -(points**2).sum(dim=1, keepdim=True) / 2], dim=1)
    return nearest_rows(torch.cat([points, torch.ones(len(points), 1)], dim=1), keys, count)[1]


class PointCells:
    """Many points, each in the cell of the nearest centre, so that few are compared with each: an inverted file ("Video
    Google: A Text Retrieval Approach to Object Matching in Videos", Sivic and Zisserman, 2003), of which each query
    looks around in the cells that are nearest to itself.

    The centres are found by k-means on some of the points.

    Args:
        points: (N, D) float32.
    """

    def __init__(self, points: Tensor):
        most = max(1, len(points) // POINTS_A_CELL)
        drawn = points[:: max(1, len(points) // (POINTS_OF_MEAN * most))]
        centres = drawn[:: max(1, len(drawn) // most)]
        for _ in range(MEANS):
            cell_of = _nearest_centres(drawn, centres)
            counts = torch.bincount(cell_of, minlength=len(centres))[:, None]
            sums = torch.zeros_like(centres).index_add_(0, cell_of, drawn)
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        occupied, cell_of = _nearest_centres(points, centres).unique(return_inverse=True)
        self.centres, self.sizes = centres[occupied], torch.bincount(cell_of)
        self.members = cell_of.argsort(stable=True)
        self.points = points[self.members]  # cell by cell

    def near(self, most: float, count: int, searched: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pairs of a query and a point, both (M,): in each of some cells the nearest points that are near.

        Args:
            most: squared distance of a point that is near.
            count: how many points of a cell are taken.
            searched: how many cells, those whose centres are nearest.
            queries: (N, D) float32; the points themselves, none of which is near itself, unless they are given.
        """
        of_points, queries = queries is None, self.points if queries is None else queries
        visited = self._nearest_cells(queries, searched)
        order = torch.from_numpy(visited.ravel().argsort(kind="stable"))
        visitors = (order // visited.shape[1]).split(np.bincount(visited.ravel(), minlength=len(self.sizes)).tolist())
        least = ((queries**2).sum(dim=1) - most) / 2
        pairs, start = [], 0
        for size, visits in zip(self.sizes.tolist(), visitors):
            keys = self.points[start : start + size]
            offsets, keys = -(keys**2).sum(dim=1) / 2, keys.T
            for rows in visits.split(ROWS_AT_ONCE):
                products = torch.addmm(offsets, queries.index_select(0, rows), keys)
                if of_points:
                    own = ((rows >= start) & (rows < start + size)).nonzero()[:, 0]
                    products[own, rows[own] - start] = -torch.inf
                some = (products.amax(dim=1) >= least[rows]).nonzero()[:, 0]
                if len(some):
                    rows = rows[some]
                    values, place = products[some].topk(min(count, size), dim=1, sorted=False)
                    row, column = (values >= least[rows, None]).nonzero(as_tuple=True)
                    pairs.append(torch.stack([rows[row], start + place[row, column]]))
            start += size
        rows, others = torch.cat([torch.zeros(2, 0, dtype=torch.long), *pairs], dim=1)
        return self.members[rows] if of_points else rows, self.members[others]

    def _nearest_cells(self, queries: Tensor, count: int) -> np.ndarray:
        """(N, K) uint16, those whose centres are nearest."""
        offsets, count = -(self.centres**2).sum(dim=1) / 2, min(count, len(self.centres))
        cells = np.zeros((len(queries), count), dtype=np.uint16)
        for start in range(0, len(queries), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            products = torch.addmm(offsets, queries[some], self.centres.T)
            cells[some] = products.topk(count, dim=1, sorted=False).indices.numpy()
        return cells


def _nearest_centres(points: Tensor, centres: Tensor) -> Tensor:
    offsets, parts = -(centres**2).sum(dim=1) / 2, points.split(ROWS_AT_ONCE)
    return torch.cat([torch.addmm(offsets, some, centres.T).argmax(dim=1) for some in parts])


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

"""Nearest neighbours without an (N, N) matrix, and the library that finds them among millions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import CapabilityError

SEARCHED_WHOLE = 20_000
"""Points up to which each is compared with all others."""
POINTS_A_CELL, CELLS_SEARCHED, MOST_CELLS_SEARCHED = 300, 3, 600_000
"""Of more points, those around one centre, and how many of the centres near its own are looked around, at least so many
of each point, and in all as many, so that smaller sets are searched more thoroughly in the same time."""
POINTS_OF_MEAN, MEANS = 16, 2
"""Of each centre, and how often the means are taken."""
ROWS_AT_ONCE = 256
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

    Of up to 20,000 points the `count` nearest. Of more, those of near cells alone.

    Args:
        points: (N, D) float32.
    """
    if len(points) <= SEARCHED_WHOLE:
        keys = torch.cat([points, -(points**2).sum(dim=1, keepdim=True) / 2], dim=1)
        return nearest_rows(torch.cat([points, torch.ones(len(points), 1)], dim=1), keys, count)[1]
    return PointCells(points).nearest(count)[1]


class PointCells:
    """Many points, each in the cell of the nearest centre, so that few are compared with each: an inverted file ("Video
    Google: A Text Retrieval Approach to Object Matching in Videos", Sivic and Zisserman, 2003).

    The centres are found by k-means on some of the points.

    Args:
        points: (N, D) float32.
    """

    def __init__(self, points: Tensor):
        most = max(1, len(points) // POINTS_A_CELL)
        drawn = points[:: max(1, len(points) // (POINTS_OF_MEAN * most))]
        self.centres = drawn[:: max(1, len(drawn) // most)]
        for _ in range(MEANS):
            cell_of = self._cell_of(drawn)
            counts = torch.bincount(cell_of, minlength=len(self.centres))[:, None]
            sums = torch.zeros_like(self.centres).index_add_(0, cell_of, drawn)
            self.centres = torch.where(counts > 0, sums / counts.clamp(min=1), self.centres)
        occupied, self.cell_of = self._cell_of(points).unique(return_inverse=True)
        self.centres = self.centres[occupied]
        members, sizes = self.cell_of.argsort(stable=True), torch.bincount(self.cell_of).tolist()
        self.points = points[members]  # cell by cell
        self.cells = [each.split(sizes) for each in (members, self.points, -(self.points**2).sum(dim=1) / 2)]

    def nearest(self, count: int, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Squared distances and indices of the nearest points in the cells near to each query's, both (N, K), in no
        order; infinitely far where these cells have fewer.

        Args:
            queries: (N, D) float32; the points themselves unless they are given.
        """
        cell_of = self.cell_of if queries is None else self._cell_of(queries)
        order, sizes = cell_of.argsort(stable=True), torch.bincount(cell_of, minlength=len(self.centres))
        ends, queries = sizes.cumsum(0).tolist(), self.points if queries is None else queries[order]
        searched = min(max(CELLS_SEARCHED, MOST_CELLS_SEARCHED // len(queries)), len(self.centres))
        near = torch.cdist(self.centres, self.centres).topk(searched, dim=1, largest=False).indices.tolist()
        distances = torch.full((len(queries), count), torch.inf)
        index = torch.zeros(distances.shape, dtype=torch.long)
        for start, end, cells in zip([0, *ends], ends, near):
            if start == end:
                continue
            members, keys, offsets = (torch.cat([each[cell] for cell in cells]) for each in self.cells)
            some, few = queries[start:end], min(count, len(keys))
            products, place = _some_largest(torch.addmm(offsets, some, keys.T), few)
            distances[order[start:end], :few] = (some**2).sum(dim=1, keepdim=True) - 2 * products
            index[order[start:end], :few] = members[place]
        return distances, index

    def _cell_of(self, points: Tensor) -> Tensor:
        offsets, parts = -(self.centres**2).sum(dim=1) / 2, points.split(ROWS_AT_ONCE)
        return torch.cat([torch.addmm(offsets, some, self.centres.T).argmax(dim=1) for some in parts])


def _some_largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row and their columns, in no order: those of the groups with the largest maxima."""
    size = max(1, min(GROUP // 2, values.shape[1] // (4 * count)))
    groups = values.shape[1] // size
    best = values[:, : size * groups].unflatten(1, (size, groups)).amax(dim=1)  # (B, N / size)
    chosen = best.topk(min(count, groups), dim=1, sorted=False).indices
    columns = (chosen[:, :, None] + groups * torch.arange(size)).flatten(1)
    rest = torch.arange(size * groups, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([columns, rest], dim=1)
    largest, place = values.gather(1, columns).topk(count, dim=1, sorted=False)
    return largest, columns.gather(1, place)


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

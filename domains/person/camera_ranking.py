"""Where queries find the same person in a gallery, by the rule of cameras.

A picture of the same person by the same camera as the query counts neither as found nor as missed; queries for which
nothing is left are dropped. So evaluate "Scalable Person Re-identification: A Benchmark" (Zheng et al., ICCV 2015,
Market-1501) and all that followed. The released codes leave equal distances to their sort. Here the gallery's order
decides, or with `worst_first` those that are not the person come first: a tower that gives everything the same feature
then finds nobody, rather than some by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...core.errors import DataError
from ...core.metrics import Ranking, share_interval

NUMBERS_AT_ONCE = 1 << 22
"""Distances that are sorted at a time."""


@dataclass(frozen=True)
class CameraRanking(Ranking):
    """As `Ranking`, of the queries that something is left for.

    Attributes:
        average_precision: (Q,) the mean over hits of hits so far / rank: a rectangle below the curve at each hit.
        trapezoid: (Q,) with the mean of the precision before and after each hit in its place, as Market-1501's own
            Matlab code has it; it is lower.
    """

    trapezoid: Tensor

    @property
    def inverse_penalty(self) -> Tensor:
        """(Q,) hits / rank of the last: "Deep Learning for Person Re-identification: A Survey and Outlook" (Ye et al.
        2020, arXiv 2001.04193)."""
        return self.relevant / self.last.double()

    def values(self) -> dict[str, Tensor]:
        """(Q,) of each score whose mean is reported."""
        recalls = {f"r{k}": (self.best <= k).double() for k in Ranking.RECALL_AT}
        more = {"minp": self.inverse_penalty, "map_trapezoid": self.trapezoid}
        return {**recalls, "map": self.average_precision, **more}

    def metrics(self) -> dict[str, float]:
        """r1, r5, r10, map, minp and map_trapezoid, in 0..1."""
        return {name: float(values.mean()) for name, values in self.values().items()}

    def intervals(self, unit: Tensor) -> dict[str, list[float]]:
        """95 % intervals of all scores.

        Args:
            unit: (Q,) the identity of each query.
        """
        return {name: share_interval(values, unit) for name, values in self.values().items()}

    def of(self, chosen: Tensor) -> CameraRanking:
        """Some of the queries: (Q,) bool."""
        parts = (self.query, self.best, self.last, self.relevant, self.average_precision, self.trapezoid)
        return CameraRanking(*(part[chosen] for part in parts))


@dataclass(frozen=True)
class SoughtPeople:
    """Who is sought among whom.

    Args:
        query_ids, gallery_ids: (Q,), (G,) int64.
        query_cameras, gallery_cameras: (Q,), (G,) int64, or None: the rule of cameras is off.
        own: (Q,) where the query itself stands in the gallery, -1 where it does not; None for nowhere.
    """

    query_ids: Tensor
    gallery_ids: Tensor
    query_cameras: Tensor | None = None
    gallery_cameras: Tensor | None = None
    own: Tensor | None = None

    def left_out(self, rows: Tensor) -> Tensor:
        """(q, G) bool: what does not count for these queries."""
        out = torch.zeros(len(rows), len(self.gallery_ids), dtype=torch.bool, device=rows.device)
        if self.query_cameras is not None:
            out = self.same(rows) & (self.query_cameras[rows, None] == self.gallery_cameras)
        if self.own is not None:
            there = (self.own[rows] >= 0).nonzero().flatten()
            out[there, self.own[rows[there]]] = True
        return out

    def same(self, rows: Tensor) -> Tensor:
        """(q, G) bool: the same identity."""
        return self.query_ids[rows, None] == self.gallery_ids

    @cached_property
    def answerable(self) -> Tensor:
        """(Q,) bool: queries that the gallery holds another picture of, which counts."""
        step = max(1, NUMBERS_AT_ONCE // max(1, len(self.gallery_ids)))
        rows = torch.arange(len(self.query_ids), device=self.query_ids.device).split(step)
        return torch.cat([(self.same(some) & ~self.left_out(some)).any(dim=1) for some in rows])


def ranked(distances: Callable[[Tensor], Tensor], sought: SoughtPeople, worst_first: bool = False) -> CameraRanking:
    """The ranking of all queries that the gallery can answer; memory holds a few rows of distances at a time.

    Args:
        distances: (q,) rows of queries -> (q, G), the smaller the nearer.
        worst_first: of equal distances, those to others come first; else the gallery's order decides.

    Raises:
        DataError: there is no such query.
    """
    rows = sought.answerable.nonzero().flatten()
    if not len(rows):
        raise DataError("no query has another picture of its person in the gallery; give more pictures of each person")
    step = max(1, NUMBERS_AT_ONCE // len(sought.gallery_ids))
    parts = [
        _ranked(distances(some), sought.same(some), sought.left_out(some), worst_first) for some in rows.split(step)
    ]
    return CameraRanking(rows.cpu(), *(torch.cat(column).cpu() for column in zip(*parts)))


def ranked_by_features(query: Tensor, gallery: Tensor, sought: SoughtPeople) -> CameraRanking:
    """The same by the cosine of features (Q, D) and (G, D), unit rows; Euclidean distances have the same order. Of
    equal ones the worst come first; equal features of the gallery share one cosine, which a product rounds by place."""
    distinct, place = gallery.unique(dim=0, return_inverse=True)  # (U, D), (G,)
    return ranked(lambda rows: -(query[rows] @ distinct.T)[:, place], sought, worst_first=True)


def _ranked(distance: Tensor, same: Tensor, left_out: Tensor, worst_first: bool) -> Iterator[Tensor]:
    """Rank of the first and of the last hit, hits, and both average precisions, each (q,).

    Args:
        distance, same, left_out: (q, G).
    """
    if worst_first:
        others_first = same.byte().sort(dim=1, stable=True).indices
        order = others_first.gather(1, distance.gather(1, others_first).sort(dim=1, stable=True).indices)
    else:
        order = distance.sort(dim=1, stable=True).indices
    counts = ~left_out.gather(1, order)  # (q, G), nearest first
    hit = same.gather(1, order) & counts
    rank = counts.cumsum(dim=1)  # (q, G) from 1, where it counts
    found = hit.cumsum(dim=1)
    hits = found[:, -1]
    precision = found / rank.clamp(min=1).double()
    before = torch.where(rank > 1, (found - 1) / (rank - 1).clamp(min=1).double(), 1.0)
    last = torch.where(hit, rank, 0).max(dim=1).values
    first = torch.where(hit, rank, rank.shape[1] + 1).min(dim=1).values
    rectangles = torch.where(hit, precision, 0.0).sum(dim=1) / hits
    trapezoids = torch.where(hit, (before + precision) / 2, 0.0).sum(dim=1) / hits
    return first, last, hits, rectangles, trapezoids

"""Whether answers follow a column of the data beyond the label: a place, a scanner, a background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .intervals import SIGNIFICANT, t_quantile, units_of

PERMUTATIONS, FEWEST, MOST_PRODUCTS, AT_ONCE = 10_000, 2_000, 2_000_000_000, 4_000_000
"""Draws; where these would need more products than that, as few as `FEWEST`."""
LABEL, ONE_GROUP = "goes with the label in all test images", "no two groups of images could change places"
FEW_WAYS = "its values could be dealt anew in fewer than 20 ways, too few to rule out chance"
NO_CLASS = "goes with no class among the images that were learned from"
ONE_VALUE, ONE_TAUGHT = "has one value in the test images", "has one value in the images that were learned from"


@dataclass(frozen=True)
class Following:
    """How far answers follow one column.

    Attributes:
        images: test images that have a value.
        share: of these, whose answer is a class that its value goes with in the support.
        expected: the same share if the column did not matter within the true class.
        interval: [low, high] of the difference, over images or groups of them; None of a single one.
        p_value: one-sided, not adjusted.
    """

    images: int
    share: float
    expected: float
    interval: list[float] | None
    p_value: float


@dataclass(frozen=True)
class Column:
    """One column as the support and the test images have it.

    Args:
        support: (M,) values, -1 for none.
        test: (N,) values, -1 for none.
        values: how many there are, V.
    """

    support: Tensor
    test: Tensor
    values: int

    @property
    def lacking(self) -> str:
        """Why nothing can be said of it, whatever the answers; "" where something can."""
        if len(self.test[self.test >= 0].unique()) < 2:
            return ONE_VALUE
        return ONE_TAUGHT if len(self.support[self.support >= 0].unique()) < 2 else ""

    def association(self, labels: Tensor, classes: int) -> Tensor:
        """(V, C): how much more frequent each class is with a value than in the whole support; 0 of a value that the
        support lacks, and less the fewer images have it.

        Args:
            labels: (M,) of the support.
        """
        filled = self.support >= 0
        counts = torch.zeros(self.values, classes, dtype=torch.float64)
        ones = torch.ones(int(filled.sum()), dtype=torch.float64)
        counts.index_put_((self.support[filled], labels[filled]), ones, accumulate=True)
        images = counts.sum(dim=1, keepdim=True)
        return (counts - images * counts.sum(dim=0) / images.sum().clamp(min=1)) / (images + 1)


def followed(
    columns: Sequence[Column],
    support_labels: Tensor,
    labels: Tensor,
    answers: Tensor,
    classes: int,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> list[Following | str]:
    """Of each column, whether answers lean, within the true class, to the classes that its value goes with in the
    support; or why it cannot be said.

    A permutation test within strata ("The Design of Experiments", Fisher 1935; of conditional independence, "The
    conditional permutation test for independence while controlling for confounders", Berrett et al., 2020, arXiv
    1807.05405): the statistic is the sum over test images of the association of value and answer, less its mean for the
    answers to the true class. Values are dealt anew among images of one true class, those of a whole group together,
    among groups that hold the same classes. The label may be as wrong and the column as unequal between classes, and
    between large groups and small ones, as it likes: both stay in their class.

    Args:
        columns: K of them.
        support_labels: (M,) class indices.
        labels: (N,) of the test images.
        answers: (N,) of the model.
        classes: C.
        groups: N keys of test images that belong together, or None.
        seed: of the permutations.
    """
    cells = _Cells.of(labels, groups)
    results: list[Following | str] = [column.lacking for column in columns]
    tested: list[tuple[int, Tensor, Tensor, Following]] = []
    for place, column in enumerate(columns):
        if results[place]:
            continue
        association = column.association(support_labels, classes)  # (V, C)
        if not bool(association.any()):
            results[place] = NO_CLASS
        elif _constant(column.test, labels):
            results[place] = LABEL
        elif (ways := cells.ways(profile := cells.profile(column))) < 2:
            results[place] = ONE_GROUP
        elif ways * SIGNIFICANT < 1:
            results[place] = FEW_WAYS
        else:
            goes = association > 0
            following = cells.following(goes.double(), column, answers, profile)
            tested.append((place, cells.sums(association, answers), profile, following))
    if tested:
        p_values = _p_values(cells, [each[1] for each in tested], [each[2] for each in tested], seed)
        for (place, _, _, of), p_value in zip(tested, p_values):
            results[place] = Following(of.images, of.share, of.expected, of.interval, p_value)
    return results


@dataclass(frozen=True)
class _Cells:
    """Test images of one group and one true class, and how groups may change places: those that hold the same classes,
    cell by cell.

    Attributes:
        labels: (N,) the true class of each image.
        cell: (N,) the cell of each image.
        group: (L,) the group of each cell; cells of a group follow one another, ordered by class.
        rank: (L,) its place among those of its group.
        stratum: (G,) of each group, what other groups may change places with it.
    """

    labels: Tensor
    cell: Tensor
    group: Tensor
    rank: Tensor
    stratum: Tensor

    @classmethod
    def of(cls, labels: Tensor, groups: Sequence[str] | None) -> _Cells:
        unit, units = units_of(groups, len(labels))
        classes = int(labels.max()) + 1
        keys, cell = (unit * classes + labels).unique(return_inverse=True)  # sorted by group, then class
        group, held = keys // classes, (keys % classes).tolist()
        sizes = group.bincount(minlength=units)
        starts = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        strata: dict[tuple[int, ...], int] = {}
        stratum = [strata.setdefault(tuple(held[a:b]), len(strata)) for a, b in pairwise(starts.tolist())]
        return cls(labels, cell, group, torch.arange(len(keys)) - starts[group], torch.tensor(stratum))

    @property
    def starts(self) -> Tensor:
        """(G,) the first cell of each group."""
        return (self.rank == 0).nonzero().flatten()

    def sums(self, weight: Tensor, answers: Tensor) -> Tensor:
        """(L, V): of the weights (V, C) of the answers in a cell, for each value, less the mean of all images of that
        class: otherwise large groups, which one value may have more often, would count as answers that follow it."""
        of = weight.T[answers]  # (N, V)
        sums = torch.zeros(int(self.labels.max()) + 1, of.shape[1], dtype=torch.float64).index_add_(0, self.labels, of)
        of = of - (sums / self.labels.bincount().clamp(min=1)[:, None])[self.labels]
        return torch.zeros(len(self.group), of.shape[1], dtype=torch.float64).index_add_(0, self.cell, of)

    def profile(self, column: Column) -> Tensor:
        """(L, V): the share of a cell's images that have each value."""
        filled = (column.test >= 0).nonzero().flatten()
        counts = torch.zeros(len(self.group), column.values, dtype=torch.float64)
        ones = torch.ones(len(filled), dtype=torch.float64)
        counts.index_put_((self.cell[filled], column.test[filled]), ones, accumulate=True)
        return counts / self.cell.bincount(minlength=len(self.group))[:, None]

    def among(self, of: Tensor) -> Tensor:
        """(L, V): values less their mean over cells that may change places."""
        ranks = int(self.rank.max()) + 1
        place = (self.stratum[self.group] * ranks + self.rank).unique(return_inverse=True)[1]
        sums = torch.zeros(int(place.max()) + 1, of.shape[1], dtype=of.dtype).index_add_(0, place, of)
        return of - (sums / place.bincount()[:, None])[place]

    def ways(self, profile: Tensor) -> float:
        """In how many ways values can be dealt to groups that may change places."""
        held, logarithm = profile.split(self.group.bincount().tolist()), 0.0
        for stratum in self.stratum.unique():
            of = (self.stratum == stratum).nonzero().flatten().tolist()
            counts = torch.stack([held[group].flatten() for group in of]).unique(dim=0, return_counts=True)[1]
            logarithm += math.lgamma(len(of) + 1) - float(torch.lgamma(counts.double() + 1).sum())
        return round(math.exp(min(logarithm, 700)), 6)

    def following(self, goes: Tensor, column: Column, answers: Tensor, profile: Tensor) -> Following:
        """Of a column, without its p value.

        Args:
            goes: (V, C) 1 where the class goes with the value.
        """
        filled, images = column.test >= 0, max(1, int((column.test >= 0).sum()))
        share = float(goes[column.test[filled], answers[filled]].sum()) / images
        sums = self.sums(goes, answers)
        leaning = (self.among(sums) * self.among(profile)).sum(dim=1)  # (L,)
        of_group = torch.zeros(len(self.stratum), dtype=torch.float64).index_add_(0, self.group, leaning)
        more, count, interval = float(of_group.sum()) / images, len(of_group), None
        if count > 1:
            half = float(t_quantile(count - 1)) * float(of_group.std()) * count**0.5 / images
            interval = [more - half, more + half]
        return Following(images, share, share - more, interval, 1.0)

    def dealt(self, draws: int, generator: torch.Generator) -> Tensor:
        """(draws, L) cells, whose groups have changed places."""
        keys = torch.rand(draws, len(self.stratum), generator=generator, dtype=torch.float64) + self.stratum
        order = torch.empty_like(keys, dtype=torch.int64)
        order.scatter_(1, self.stratum.argsort(stable=True).expand(draws, -1), keys.argsort(dim=1))
        return self.starts[order[:, self.group]] + self.rank


def _constant(values: Tensor, labels: Tensor) -> bool:
    """Whether each class has one value."""
    pairs = torch.stack((labels, values), dim=1)[values >= 0].unique(dim=0)
    return len(pairs) == len(pairs[:, 0].unique())


def _p_values(cells: _Cells, sums: Sequence[Tensor], profiles: Sequence[Tensor], seed: int) -> list[float]:
    """One-sided, of each column, whose groups change places together."""
    weight, profile = torch.cat(tuple(sums), dim=1), torch.cat(tuple(profiles), dim=1)  # (L, all V)
    of_column = torch.cat([torch.full((of.shape[1],), place) for place, of in enumerate(sums)])
    chosen = torch.nn.functional.one_hot(of_column).double()  # (all V, K)
    observed = (weight * profile).sum(dim=0) @ chosen - 1e-9
    draws = min(PERMUTATIONS, max(FEWEST, MOST_PRODUCTS // weight.numel()))
    block, generator = max(1, AT_ONCE // weight.numel()), torch.Generator().manual_seed(seed)
    extreme = torch.zeros(len(sums), dtype=torch.int64)
    for start in range(0, draws, block):
        dealt = cells.dealt(min(block, draws - start), generator)  # (b, L)
        statistic = torch.einsum("blv,lv->bv", profile[dealt], weight) @ chosen
        extreme += (statistic >= observed).sum(dim=0)
    return ((extreme.double() + 1) / (draws + 1)).tolist()

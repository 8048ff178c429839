"""What a model keeps of earlier data sets while it is trained on one after the other.

"Gradient Episodic Memory for Continual Learning" (Lopez-Paz & Ranzato, 2017, arXiv 1706.08840) defines backward and
forward transfer, "Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence" (Chaudhry et
al., 2018, arXiv 1801.10112) forgetting. Each is a difference of scores on the same test pairs: all stages of a draw see
the same images, so that intervals are of the difference, not of two scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .intervals import exact_interval, units_of
from .significance import SAMPLES, drawn_weights, percentiles


@dataclass(frozen=True, eq=False)
class SetRanks:
    """Where the test pairs of one set found each other.

    Attributes:
        ranks: direction -> (Q,) rank of the first relevant item of each query, from 1.
        units: direction -> (Q,) the unit (an image with its captions, a group) that each query is of.
    """

    ranks: Mapping[str, Tensor]
    units: Mapping[str, Tensor]

    def recall(self, direction: str, k: int) -> float:
        """R@K of one direction, in 0..1."""
        return float((self.ranks[direction] <= k).double().mean())

    def score(self, k: int = 1) -> float:
        """R@K, the mean of all directions."""
        return sum(self.recall(direction, k) for direction in self.ranks) / len(self.ranks)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where no draw has one."""

    value: float
    interval: tuple[float, float] | None


class ContinualScores:
    """Scores of several sets after each stage of a training on one set after the other.

    Args:
        stages: S + 1 rows or more of S sets each: before the training, after the first set, after the second, ...;
            further rows are of models made after the last one. None where a set could not be measured.
        k: recalls are at this K.
        samples, seed: of the draws of test images.
    """

    def __init__(
        self, stages: Sequence[Sequence[SetRanks | None]], *, k: int = 1, samples: int = SAMPLES, seed: int = 0
    ):
        self.stages, self.k, self.samples, self.seed = stages, k, samples, seed
        self.sets = len(stages[0])

    @property
    def last(self) -> int:
        return len(self.stages) - 1

    @property
    def average(self) -> Estimate | None:
        """Mean score of all sets at the end."""
        return _as_share(self._mean(range(self.sets), lambda number: self._at(self.last, number)))

    @property
    def backward_transfer(self) -> Estimate | None:
        """Mean, over all sets but the last, of the score at the end less that right after the set was trained on; below
        0 it was forgotten."""
        return self._mean(range(self.sets - 1), self._backward)

    @property
    def forgetting(self) -> Estimate | None:
        """Mean, over all sets but the last, of the best score since the set was trained on, before the end, less that
        at the end."""
        return self._mean(range(self.sets - 1), self._forgotten)

    @property
    def forward_transfer(self) -> Estimate | None:
        """Mean, over all sets but the first, of the score right before the set was trained on less that before all."""
        return self._mean(range(1, self.sets), lambda number: self._difference(number, number, 0))

    def score(self, stage: int, number: int) -> Estimate | None:
        """Of one set after one stage."""
        return _as_share(self._mean([number], lambda one: self._at(stage, one)))

    def transfer(self, number: int) -> Estimate | None:
        """Backward transfer of one set; None of the last one."""
        return self._mean([number], self._backward) if number < self.sets - 1 else None

    def _backward(self, number: int) -> Tensor | None:
        return self._difference(number, self.last, number + 1)

    def _forgotten(self, number: int) -> Tensor | None:
        since = [values for stage in range(number + 1, self.last) if (values := self._at(stage, number)) is not None]
        end = self._at(self.last, number)
        return None if end is None or not since else torch.stack(since).amax(dim=0) - end

    def _difference(self, number: int, stage: int, other: int) -> Tensor | None:
        one, two = self._at(stage, number), self._at(other, number)
        return None if one is None or two is None else one - two

    def _mean(self, numbers: Sequence[int], of: Callable[[int], Tensor | None]) -> Estimate | None:
        values = {number: value for number in numbers if (value := of(number)) is not None}
        if not values:
            return None
        mean = torch.stack(list(values.values())).mean(dim=0)  # (1 + samples,), the first of all test pairs
        bounds = percentiles(mean[1:])
        if bounds is not None and bounds[0] == bounds[1]:  # draws that all agree would claim certainty
            width = exact_interval(0, sum(self._columns[number].units for number in values))[1]
            bounds = max(-1.0, bounds[0] - width), min(1.0, bounds[1] + width)
        return Estimate(float(mean[0]), bounds)

    def _at(self, stage: int, number: int) -> Tensor | None:
        return self._columns[number].stages[stage]

    @cached_property
    def _columns(self) -> list[_Column]:
        return [self._column(number) for number in range(self.sets)]

    def _column(self, number: int) -> _Column:
        """Each stage is scored on the same draws of test images."""
        measured = [row[number] for row in self.stages]
        first = next((each for each in measured if each is not None), None)
        if first is None:
            return _Column(measured, 0)
        units = torch.cat([first.units[direction] for direction in first.ranks])
        unit, count = units_of(units, len(units))
        scores: list[list[Tensor]] = [[] for _ in measured]
        draws = drawn_weights(count, samples=self.samples, seed=self.seed + number)
        for weights in (torch.ones(1, count), *draws):
            for stage, ranks in enumerate(measured):
                if ranks is not None:
                    scores[stage].append(self._drawn(ranks, unit, weights.double()))
        return _Column([torch.cat(parts) if parts else None for parts in scores], count)

    def _drawn(self, of: SetRanks, unit: Tensor, weights: Tensor) -> Tensor:
        """(s,) the mean over directions of hits / queries, in each draw (s, U) of units."""
        directions = unit.split([len(ranks) for ranks in of.ranks.values()])
        shares = []
        for ranks, own in zip(of.ranks.values(), directions):
            zeros = torch.zeros(weights.shape[1], dtype=torch.float64)
            hits = zeros.index_add(0, own, (ranks <= self.k).double())
            queries = zeros.index_add(0, own, torch.ones(len(own), dtype=torch.float64))
            shares.append(weights @ hits / (weights @ queries))
        return torch.stack(shares).mean(dim=0)


def _as_share(estimate: Estimate | None) -> Estimate | None:
    """With an interval that ends at 0 and 1."""
    if estimate is None or estimate.interval is None:
        return estimate
    low, high = estimate.interval
    return Estimate(estimate.value, (max(0.0, low), min(1.0, high)))


@dataclass(frozen=True)
class _Column:
    """One set: stage by stage (1 + samples,) its score on all test pairs, then on each draw; and how many units it
    has."""

    stages: list[Tensor | None]
    units: int

"""Answers not to be relied on: those left open, so that the others are wrong seldom enough, and those for images unlike
the ones of a fit.

"Selective Classification for Deep Neural Networks" (Geifman and El-Yaniv 2017, arXiv 1705.08500), with thresholds at
fixed shares of the calibration rows, each tested at its part of the risk ("Learn then Test", Angelopoulos et al. 2021,
arXiv 2110.01052): the error above a threshold is bounded (Clopper and Pearson 1934), and all bounds together hold with
probability 1 - `RISK` at least. Where rows belong to groups, what is bounded is the mean over groups (patients) of the
share of their answers that is wrong, by Hoeffding's and Bentkus' inequalities as in the same paper, threshold by
threshold from the surest answers on, each at the whole risk, until the first that cannot be shown (fixed sequence).

Images unlike those of a fit are told by their distance to the nearest of them: "Out-of-Distribution Detection with Deep
Nearest Neighbors" (Sun et al. 2022, arXiv 2204.06507), unit features, the distance to the k-th nearest, and a threshold
that a stated share of ordinary images exceeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.run_info import Record
from ..errors import ConfigError
from ..metrics.intervals import share_interval, units_of
from .conformal import number_of, threshold, unit_means

RISK = 0.1
"""How often the bound may fail, over draws of the calibration rows."""
SHARES = tuple(share / 10 for share in range(10, 0, -1))
"""Shares of the rows that are answered, of which the largest is taken whose error is bounded."""
FALSE_ALARMS = 0.05
"""The share of ordinary images that are called unlike those of the fit."""
NEIGHBOURS = 3
MOST_KEPT = 4000
"""Support features that a run keeps to tell unlike images."""
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Abstention:
    """From which confidence on an answer is given.

    Attributes:
        max_error: what the error of the answers given is kept under.
        least: confidence an answer needs, in 0..1; infinite where no answer can be given.
        rows: calibration rows.
        groups: how many groups these are of; None where each row stands alone.
    """

    max_error: float
    least: float
    rows: int
    groups: int | None = None

    @property
    def note(self) -> str:
        """Why nothing is answered; "" where something is."""
        if math.isfinite(self.least):
            return ""
        count, needed, have, noun = self.rows, rows_without_mistake(self.max_error), f"{self.rows} calibration rows", ""
        if self.groups is not None:
            count, needed, noun = self.groups, fewest_groups(self.max_error), " groups"
            have += f" of {self.groups} groups (patients, for instance)"
        if count < needed:
            return (
                f"all answers are left open: {have} cannot promise an error under {self.max_error:.1%}, at least "
                f"{needed}{noun} without a mistake are needed; give more --shots"
            )
        return (
            f"all answers are left open: at no confidence is the error sure to be under {self.max_error:.1%}; give a "
            "higher --max-error"
        )


def check_max_error(max_error: float) -> None:
    """Raise the ConfigError of an error that cannot be kept."""
    if not 0 < max_error < 1:
        raise ConfigError(f"--max-error {max_error}: give a share between 0 and 1, for instance 0.05")


def answer_threshold(
    confidence: Tensor,
    right: Tensor,
    max_error: float,
    weights: Tensor | None = None,
    risk: float = RISK,
    groups: Tensor | None = None,
) -> Abstention:
    """The lowest confidence at which the error of the rows above it is bounded by `max_error`.

    Args:
        confidence: (n,) of calibration rows.
        right: (n,) bool, whether their answers are right.
        max_error: in 0..1.
        weights: (n,) how many images a row stands for; None: one.
        risk: how often the bound may fail.
        groups: (n,) number of the group of each row: the error is the mean over groups. None: each row stands alone.
    """
    check_max_error(max_error)
    if not len(confidence):
        return Abstention(max_error, math.inf, 0)
    order = confidence.argsort(descending=True, stable=True)
    confidence, wrong = confidence[order], ~right[order]
    weights = torch.ones(len(order), dtype=torch.float64) if weights is None else weights.double()[order]
    least = [confidence[max(0, math.ceil(share * len(order)) - 1)] for share in SHARES]
    answered = [int((confidence >= each).sum()) for each in least]  # ties are answered together
    if groups is not None:
        last = _last_in_sequence(wrong, weights, groups[order], answered[::-1], max_error, risk)
        chosen = math.inf if last is None else float(least[::-1][last])
        return Abstention(max_error, chosen, len(order), number_of(groups))
    errors, whole = (weights * wrong).cumsum(0), weights.cumsum(0)
    effective = whole**2 / (weights**2).cumsum(0)  # rows of equal weight that tell as much
    for lowest, rows in zip(least, answered):
        error, count = float(errors[rows - 1] / whole[rows - 1]), float(effective[rows - 1])
        if error_bound(error * count, count, risk / len(SHARES)) <= max_error:
            return Abstention(max_error, float(lowest), len(order))
    return Abstention(max_error, math.inf, len(order))


def _last_in_sequence(
    wrong: Tensor, weights: Tensor, groups: Tensor, answered: Sequence[int], max_error: float, risk: float
) -> int | None:
    """The place of the last of growing numbers of answers whose mean error over groups is shown to be small enough, all
    before it being so; None where the first is not. Numbers whose groups could not show it without a mistake do not
    count."""
    last = None
    for place, rows in enumerate(answered):
        each = weights[:rows]
        unit = groups[:rows].unique(return_inverse=True)[1]
        whole = unit.bincount(each)
        of_group = whole / unit.bincount()  # (K,) how many groups each stands for
        count = float(of_group.sum() ** 2 / (of_group**2).sum())
        if last is None and count < fewest_groups(max_error, risk):
            continue
        error = float((of_group * unit.bincount(each * wrong[:rows]) / whole).sum() / of_group.sum())
        if hoeffding_bentkus(error, count, max_error) > risk:
            break
        last = place
    return last


def hoeffding_bentkus(mean: float, count: float, most: float) -> float:
    """p value of the hypothesis that `count` independent losses in 0..1, of this mean, have an expectation above
    `most`."""
    from scipy.special import bdtr, rel_entr

    if mean >= most:
        return 1.0
    hoeffding = math.exp(-count * float(rel_entr(mean, most) + rel_entr(1 - mean, 1 - most)))
    bentkus = math.e * float(bdtr(math.ceil(mean * count - 1e-9), math.floor(count + 1e-9), most))
    return min(1.0, hoeffding, bentkus)


def error_bound(wrong: float, count: float, level: float) -> float:
    """Upper Clopper-Pearson bound of an error: `wrong` of `count` rows, exceeded with probability `level` at most."""
    from scipy.stats import beta

    return 1.0 if wrong >= count else float(beta.ppf(1 - level, wrong + 1, count - wrong))


def rows_without_mistake(max_error: float, risk: float = RISK) -> int:
    """Rows without a mistake that can promise an error."""
    return math.ceil(math.log(risk / len(SHARES)) / math.log(1 - max_error))


def fewest_groups(max_error: float, risk: float = RISK) -> int:
    """Groups without a mistake that can promise a mean error over groups."""
    return math.ceil(math.log(risk) / math.log(1 - max_error))


@dataclass(frozen=True, eq=False)
class Selective(Record):
    """What is left open.

    Attributes:
        max_error: share of the answers given that may be wrong.
        open: share of answers left open.
        answered: how many are given.
        error, interval: share of these that are wrong; None where none is given.
        groups: how many groups these are of, where images belong to some: the error is then the mean over them.
    """

    max_error: float
    open: float
    answered: int
    error: float | None
    interval: Sequence[float] | None
    groups: int | None = None

    @classmethod
    def of_answers(
        cls, left: Tensor, right: Tensor, units: Sequence[str], max_error: float, by_group: bool = False
    ) -> Selective:
        """Of N answers.

        Args:
            left, right: (N,) bool, which are left open, and which are right.
            units: N keys of answers that belong together.
            by_group: whether the error is the mean over units; else the units are only drawn together for the interval.
        """
        wrong, of_given = ~right[~left], [unit for unit, one in zip(units, left.tolist()) if not one]
        facts = max_error, float(left.double().mean()), len(of_given)
        if not of_given:
            return cls(*facts, None, None)
        if not by_group:
            return cls(*facts, float(wrong.double().mean()), share_interval(wrong, of_given))
        means = unit_means(wrong, units_of(of_given, len(of_given))[0])
        return cls(*facts, float(means.mean()), share_interval(means), len(means))

    def values_by_key(self) -> dict[str, Any]:
        return {key: value for key, value in super().values_by_key().items() if key != "groups" or value is not None}

    @property
    def words(self) -> str:
        rest = "none is given"
        if self.error is not None and self.interval is not None:
            low, high = self.interval
            once = "" if self.groups is None else f"each of {self.groups} groups counted once, "
            rest = f"{self.error:.1%} of the others are wrong ({once}95 % interval {low:.1%} to {high:.1%})"
        return f"for an error of at most {self.max_error:.1%}, {self.open:.1%} of the answers are left open; {rest}"


@dataclass(frozen=True)
class Unlike:
    """What ordinary images look like.

    Attributes:
        support: (M, D) unit features of the images of the fit.
        limit: distance beyond which an image is unlike them; infinite where too few rows can tell.
    """

    support: Tensor
    limit: float

    @classmethod
    def of_rows(cls, support: Tensor, rows: Tensor, own: Tensor | None = None) -> Unlike:
        """The limit that `FALSE_ALARMS` of images like the calibration rows exceed.

        Args:
            support: (M, D) features.
            rows: (n, D) features of calibration rows.
            own: (n, M) bool, which support rows are the row itself or of its group, and do not count; None: none.
        """
        away = distances(rows, support, own)
        away = away[away.isfinite()]
        return cls(F.normalize(support.float(), dim=1).cpu(), threshold(away, 1 - FALSE_ALARMS))

    @property
    def known(self) -> bool:
        """Whether there are rows enough to say anything."""
        return math.isfinite(self.limit)

    def flags(self, features: Tensor) -> Tensor:
        """(N,) bool: which images are unlike those of the fit."""
        return distances(features, self.support) > self.limit


def distances(features: Tensor, support: Tensor, own: Tensor | None = None) -> Tensor:
    """(N,) float32 mean cosine distance to the `NEIGHBOURS` nearest of the support.

    Args:
        features: (N, D).
        support: (M, D).
        own: (N, M) bool, pairs that do not count; a row without any other is infinitely far.
    """
    support = F.normalize(support.float(), dim=1).cpu()
    parts = []
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = F.normalize(features[start : start + ROWS_AT_ONCE].float().cpu(), dim=1)
        away = 1 - rows @ support.T  # (n, M)
        if own is not None:
            away = away.masked_fill(own[start : start + ROWS_AT_ONCE], math.inf)
        parts.append(away.topk(min(NEIGHBOURS, away.shape[1]), dim=1, largest=False).values.mean(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0)


def kept_support(features: Any) -> Any:
    """The rows (a tensor or a list) of the support that are kept to tell unlike images: all, or evenly some of many."""
    return features[:: max(1, -(-len(features) // MOST_KEPT))]

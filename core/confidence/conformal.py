"""Conformal prediction: sets that hold the true classes or labels as often as asked, and images unlike those of a fit.

Sets of classes hold the right one in a share of cases (split conformal prediction). Scores: LAC ("Least Ambiguous
Set-Valued Classifiers with Bounded Error Levels", Sadinle et al. 2019, arXiv 1609.00451), APS ("Classification with
Valid and Adaptive Coverage", Romano et al. 2020, arXiv 2006.02544), RAPS ("Uncertainty Sets for Image Classifiers using
Conformal Prediction", Angelopoulos et al. 2021, arXiv 2009.14193). Rows in which classes are not as frequent as where
the sets are used: "Distribution-free Uncertainty Quantification for Classification under Label Shift" (Podkopaev and
Ramdas 2021, arXiv 2103.03323).

Sets of labels hold on average a share of an image's true labels: conformal risk control of the false negative rate
("Conformal Risk Control", Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814). Rows in which labels
are not as frequent as where the sets are used get weights by raking ("On a Least Squares Adjustment of a Sampled
Frequency Table", Deming and Stephan 1940).

Images unlike those of a fit are told by their distance to the nearest of them: "Out-of-Distribution Detection with Deep
Nearest Neighbors" (Sun et al. 2022, arXiv 2204.06507), unit features, the distance to the k-th nearest, and a threshold
that a stated share of ordinary images exceeds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..metrics.intervals import mean_interval, share_interval

SET_METHODS = ("lac", "aps", "raps")
PENALTY, FREE_RANKS = 0.001, 1
"""Of RAPS, as "Conformal Prediction for Zero-Shot Models" (Silva-Rodríguez et al. 2025, arXiv 2505.24693) sets them."""
ROUNDS = 20
"""Of raking; three or four are enough where labels depend little on each other."""
ALL_LABELS = 0.0
"""The threshold at which each set is of all labels."""
FALSE_ALARMS = 0.05
"""The share of ordinary images that are called unlike those of the fit."""
NEIGHBOURS = 3
MOST_KEPT = 4000
"""Support features that a run keeps to tell unlike images."""
ROWS_AT_ONCE = 2048


def conformal_scores(
    probs: Tensor,
    method: str = "lac",
    uniform: Tensor | None = None,
    penalty: float = PENALTY,
    free_ranks: int = FREE_RANKS,
) -> Tensor:
    """How badly each class would fit an image; sets hold the classes whose score is at most the threshold.

    Args:
        probs: (N, C), rows summing to 1.
        method: "lac": 1 - p. "aps": the mass of the classes ranked above, and a share of the class's own. "raps": that,
            and a penalty for each rank beyond the free ones.
        uniform: numbers in 0..1 that say which share, (N, 1), or (N, C) by rank; by default those of `own_uniform`.
        penalty, free_ranks: of RAPS.

    Returns:
        (N, C) of the dtype of `probs`.
    """
    if method not in SET_METHODS:
        raise ConfigError(f"--set-method {method}: give one of {', '.join(SET_METHODS)}")
    if method == "lac":
        return 1 - probs
    uniform = own_uniform(probs) if uniform is None else uniform
    ordered, order = probs.sort(dim=1, descending=True, stable=True)  # (N, C) by rank
    scores = ordered.cumsum(dim=1) - ordered + uniform.to(probs.dtype) * ordered
    if method == "raps":
        rank = torch.arange(1, probs.shape[1] + 1, dtype=probs.dtype, device=probs.device)
        scores = scores + penalty * (rank - free_ranks).clamp(min=0)
    return torch.empty_like(scores).scatter_(1, order, scores)


def own_uniform(probs: Tensor) -> Tensor:
    """(N, 1) numbers in 0..1 that depend on the row alone, so that an image has the same set in any company."""
    rows = probs.detach().float().cpu().contiguous().numpy()
    drawn = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:6], "big") / 2**48 for row in rows]
    return torch.tensor(drawn, dtype=torch.float64)[:, None]


def threshold(scores: Tensor, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest of n scores of true classes; infinite where that exceeds n.

    Args:
        scores: (n,).
        coverage: 1 - alpha, between 0 and 1.
    """
    place = math.ceil((len(scores) + 1) * Fraction(str(coverage)))
    return math.inf if place > len(scores) else float(scores.sort().values[place - 1])


def fewest_rows(coverage: float) -> int:
    """Calibration rows below which only the set of all classes can promise the coverage: ceil(1 / alpha) - 1."""
    return math.ceil(1 / (1 - Fraction(str(coverage)))) - 1


def check_coverage(coverage: float, method: str = "lac") -> None:
    """Raise the ConfigError of a coverage or a method that there is not."""
    if not 0 < coverage < 1:
        raise ConfigError(f"--coverage {coverage}: give a share between 0 and 1, for instance 0.9")
    if method not in SET_METHODS:
        raise ConfigError(f"--set-method {method}: give one of {', '.join(SET_METHODS)}")


@dataclass(frozen=True)
class Conformal:
    """Thresholds made from calibration rows.

    Attributes:
        coverage: what is asked for.
        method: of `SET_METHODS`.
        thresholds: (C,) float64, one per class; they differ only where rows have weights.
        rows: how many rows they are made from.
    """

    coverage: float
    method: str
    thresholds: Tensor
    rows: int

    @classmethod
    def of_rows(
        cls, probs: Tensor, labels: Tensor, coverage: float, method: str = "lac", weights: Tensor | None = None
    ) -> Conformal:
        """Thresholds of rows that chose nothing.

        Args:
            probs: (n, C).
            labels: (n,) true classes.
            weights: (n,) how many images of those that sets are made for a row stands for, the same for all rows of a
                class; None: one.
        """
        check_coverage(coverage, method)
        scores = conformal_scores(probs.double(), method).gather(1, labels[:, None]).squeeze(1)
        if weights is None:
            every = torch.full((probs.shape[1],), threshold(scores, coverage), dtype=torch.float64)
        else:
            every = _weighted_thresholds(scores, labels, weights.double(), coverage, probs.shape[1])
        return cls(coverage, method, every, len(labels))

    def sets(self, probs: Tensor) -> Tensor:
        """(N, C) bool: which classes are in the set of each row."""
        return conformal_scores(probs.double(), self.method) <= self.thresholds

    @property
    def of_all_classes(self) -> bool:
        """Whether there are too few rows, so that each set is of all classes."""
        return bool(self.thresholds.isinf().all())

    @property
    def note(self) -> str:
        """What a user must know of the sets; "" where there is nothing."""
        if self.of_all_classes:
            return (
                f"sets of {self.coverage:.0%} coverage hold all classes: {self.rows} calibration rows are too few, at "
                f"least {fewest_rows(self.coverage)} are needed; give more --shots, or a lower --coverage"
            )
        if self.thresholds.isinf().any():
            some = int(self.thresholds.isinf().sum())
            return f"{some} rare classes are in every set: too few calibration rows for {self.coverage:.0%} coverage"
        return ""

    def scores(self, probs: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
        """Coverage with its interval, and the mean set size, on labelled rows; see `set_metrics`."""
        facts = {"asked": self.coverage, "method": self.method, "rows": self.rows}
        return {**facts, **set_metrics(self.sets(probs), labels, groups)}


def set_metrics(sets: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Coverage in 0..1 with its interval, mean set size, and the share of empty sets.

    Args:
        sets: (N, C) bool.
        labels: (N,).
        groups: N keys of images that belong together: the interval draws whole groups. None: it is Wilson's.
    """
    held = sets.gather(1, labels.long()[:, None]).squeeze(1)
    sizes = sets.sum(dim=1)
    return {
        "coverage": float(held.double().mean()),
        "interval": share_interval(held, groups),
        "mean_set_size": float(sizes.double().mean()),
        "empty": float((sizes == 0).double().mean()),
    }


def words_of(scores: Mapping[str, Any]) -> str:
    """Coverage and size in a sentence."""
    low, high = scores["interval"]
    return (
        f"Sets ({scores['method'].upper()}, {scores['asked']:.0%} asked) hold the right class for "
        f"{scores['coverage']:.1%} of the images (95 % interval {low:.1%} to {high:.1%}), with "
        f"{scores['mean_set_size']:.2f} classes on average."
    )


def _weighted_thresholds(scores, labels, weights, coverage: float, classes: int) -> Tensor:
    """(C,) the smallest score that rows of `coverage` of all weight reach, the image's own weight counted as infinite.

    A class without rows has the largest weight of all.
    """
    order = scores.argsort()
    reached = weights[order].cumsum(dim=0)  # (n,)
    own = torch.full((classes,), float(weights.max()), dtype=torch.float64)
    own[labels] = weights
    wanted = coverage * (reached[-1] + own) * (1 - 1e-12)  # (C,)
    place = torch.searchsorted(reached, wanted)
    ends = torch.cat([scores[order], torch.tensor([math.inf], dtype=torch.float64)])
    return ends[place]


@dataclass(frozen=True)
class LabelSets:
    """A threshold made from calibration rows: a set holds the labels that are at least as probable.

    Attributes:
        coverage: what share of an image's true labels is asked for, on average over images that have any.
        threshold: probability; 0 where each set is of all labels.
        rows: calibration rows with at least one true label.
    """

    coverage: float
    threshold: float
    rows: int

    @classmethod
    def of_rows(cls, probs: Tensor, labels: Tensor, coverage: float, weights: Tensor | None = None) -> LabelSets:
        """The highest threshold whose risk is bounded by alpha = 1 - coverage: of n rows, the mean share of missed true
        labels times n / (n + 1), and 1 / (n + 1) for the image itself.

        Args:
            probs: (n, L) of rows that chose nothing.
                labels: (n, L) 0, 1 or NaN where unknown. Rows without a true label tell nothing and are left out.
            coverage: between 0 and 1.
            weights: (n,) of how many ordinary images a row stands; None: one.

        Raises:
            ConfigError: no such coverage.
        """
        check_coverage(coverage)
        rows = (labels == 1).any(dim=1)
        weights = torch.ones(len(labels), dtype=torch.float64) if weights is None else weights.double()
        least = _risk_controlled(probs.double()[rows], (labels == 1)[rows], weights[rows], coverage)
        return cls(coverage, least, int(rows.sum()))

    def sets(self, probs: Tensor) -> Tensor:
        """(N, L) bool: which labels are in the set of each row."""
        return probs.double() >= self.threshold

    @property
    def of_all_classes(self) -> bool:
        """Whether the rows can promise nothing less than all labels."""
        return self.threshold == ALL_LABELS

    @property
    def note(self) -> str:
        """What a user must know of the sets; "" where there is nothing."""
        if not self.of_all_classes:
            return ""
        needed = fewest_rows(self.coverage)
        why = f"at least {needed} are needed" if self.rows < needed else "because some stand for many images"
        return (
            f"sets of {self.coverage:.0%} coverage hold all labels: {self.rows} calibration rows with a label are too "
            f"few, {why}; give more --shots, or a lower --coverage"
        )

    def scores(self, probs: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
        """The mean share of an image's true labels that its set holds, with its interval, and the mean set size.

        Args:
            probs, labels: (N, L).
            groups: N keys of images that belong together, or None; the interval then draws groups.
        """
        sets = self.sets(probs)
        facts = {"asked": self.coverage, "method": "crc", "rows": self.rows}
        return {**facts, **label_set_metrics(sets, labels, groups)}


def label_set_metrics(sets: Tensor, labels: Tensor, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Coverage in 0..1, over images that have a true label, with its interval; None where no image has one. Mean set
    size and the share of empty sets, over all images.

    Args:
        sets: (N, L) bool.
        labels: (N, L) 0, 1 or NaN.
        groups: N keys, or None.
    """
    truth = labels == 1
    rows = truth.any(dim=1)
    held = (sets & truth)[rows].sum(dim=1).double() / truth[rows].sum(dim=1)  # (R,)
    some = None if groups is None else [group for group, row in zip(groups, rows.tolist()) if row]
    sizes = sets.sum(dim=1)
    return {
        "coverage": float(held.mean()) if len(held) else None,
        "interval": mean_interval(held, some) if len(held) else None,
        "images_with_labels": len(held),
        "mean_set_size": float(sizes.double().mean()),
        "empty": float((sizes == 0).double().mean()),
    }


def words_of_labels(scores: Mapping[str, Any]) -> str:
    """Coverage and size in a sentence."""
    size = f"{scores['mean_set_size']:.2f} labels per image on average"
    if scores["coverage"] is None:
        return f"No image has a label, so the coverage of the sets is not known; they have {size}."
    low, high = scores["interval"]
    return (
        f"Sets ({scores['asked']:.0%} asked) hold {scores['coverage']:.1%} of an image’s true labels on average (95 % "
        f"interval {low:.1%} to {high:.1%}), with {size}."
    )


def raked(labels: Tensor, shares: Tensor) -> Tensor:
    """(n,) weights of mean 1 under which each label has its share of the rows; a label that all rows have, or none, is
    left as it is.

    Args:
        labels: (n, L) 0, 1 or NaN.
        shares: (L,) in 0..1.
    """
    known, present = ~labels.isnan(), labels == 1
    weights = torch.ones(len(labels), dtype=torch.float64)
    for _ in range(ROUNDS):
        for label, share in enumerate(shares.tolist()):
            weights = _as_frequent(weights, present[:, label], known[:, label], share)
    return weights / weights.mean()


def _as_frequent(weights: Tensor, present: Tensor, known: Tensor, share: float) -> Tensor:
    own = float(weights[present].sum() / weights[known].sum()) if bool(known.any()) else 0.0
    if not (0 < own < 1 and 0 < share < 1):
        return weights
    factor = torch.where(present, share / own, (1 - share) / (1 - own))
    return torch.where(known, weights * factor, weights)


def _risk_controlled(probs: Tensor, truth: Tensor, weights: Tensor, coverage: float) -> float:
    """The highest probability of a true label that may still be the threshold. An image that is asked about may count
    as much as the heaviest row does."""
    if not len(probs):
        return ALL_LABELS
    own = float(weights.max())
    most = float(1 - Fraction(str(coverage))) * (float(weights.sum()) + own) - own  # of weighted missed shares
    each = (weights / truth.sum(dim=1))[:, None].expand_as(probs)[truth]  # (P,) what missing a true label costs
    values, order = probs[truth].sort()
    first_of_tie = torch.cat([torch.ones(1, dtype=torch.bool), values[1:] > values[:-1]])
    missed = each[order].cumsum(dim=0) - each[order]  # (P,) where the threshold is this value
    good = (missed <= most + 1e-9) & first_of_tie
    return float(values[good][-1]) if bool(good.any()) else ALL_LABELS


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

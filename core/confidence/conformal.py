"""Sets of classes that hold the right one as often as asked: split conformal prediction.

Scores: LAC ("Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", Sadinle et al. 2019, arXiv 1609.00451),
APS ("Classification with Valid and Adaptive Coverage", Romano et al. 2020, arXiv 2006.02544), RAPS ("Uncertainty Sets
for Image Classifiers using Conformal Prediction", Angelopoulos et al. 2021, arXiv 2009.14193). Rows in which classes
are not as frequent as where the sets are used: "Distribution-free Uncertainty Quantification for Classification under
Label Shift" (Podkopaev and Ramdas 2021, arXiv 2103.03323).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..metrics.significance import share_interval

SET_METHODS = ("lac", "aps", "raps")
PENALTY, FREE_RANKS = 0.001, 1
"""Of RAPS, as "Conformal Prediction for Zero-Shot Models" (Silva-Rodríguez et al. 2025, arXiv 2505.24693) sets them."""


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


def class_coverage_gap(sets: Tensor, labels: Tensor, coverage: float) -> float:
    """Mean over classes of the distance between their coverage and the one asked for, in points."""
    held = sets.gather(1, labels.long()[:, None]).squeeze(1).double()
    gaps = [abs(float(held[labels == c].mean()) - coverage) for c in labels.unique()]
    return 100 * sum(gaps) / len(gaps)


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

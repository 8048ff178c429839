"""Sets of labels that hold on average as large a share of an image's true labels as asked.

Conformal risk control of the false negative rate ("Conformal Risk Control", Angelopoulos, Bates, Fisch, Lei and
Schuster 2022, arXiv 2208.02814). Rows in which labels are not as frequent as where the sets are used get weights by
raking ("On a Least Squares Adjustment of a Sampled Frequency Table", Deming and Stephan 1940).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..metrics.significance import mean_interval
from .conformal import check_coverage, fewest_rows

METHOD = "crc"
ROUNDS = 20
"""Of raking; three or four are enough where labels depend little on each other."""
ALL_LABELS = 0.0
"""The threshold at which each set is of all labels."""


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
        least = _threshold(probs.double()[rows], (labels == 1)[rows], weights[rows], coverage)
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
        facts = {"asked": self.coverage, "method": METHOD, "rows": self.rows}
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


def _threshold(probs: Tensor, truth: Tensor, weights: Tensor, coverage: float) -> float:
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

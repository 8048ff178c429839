"""Confidences that agree with how often they are right: a temperature, or one slope and offset per label.

"On Calibration of Modern Neural Networks" (Guo et al. 2017, arXiv 1706.04599) for one label per image; "Probabilistic
Outputs for Support Vector Machines" (Platt 1999) for several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from ..metrics.significance import calibration_curve

LOWEST, HIGHEST = 1e-6, 1e3
"""Temperatures. A linear probe under its strongest penalty has logits of some 1e-4, which must become confidences."""
HALVINGS = 50
"""Of a search on a logarithmic scale, which ends near the precision of float64."""
FEWEST_OF_EACH = 3
"""Positives and negatives without which a label is left as it is."""


@dataclass(frozen=True)
class Scaling:
    """Logits become logits / temperature + offset.

    With one label per image the temperature is (1,) and the offset 0: the ranking of the classes, and so the answer,
    stays. With several labels both are (L,): the ranking of the images stays, label by label. A label has an offset
    because the logit 0 of a cache or of a pair of prompts does not mean a probability of one half.

    Attributes:
        temperature: (1,) or (L,) float64, within 1e-6 and 1e3.
        offset: the same shape.
    """

    temperature: Tensor
    offset: Tensor

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Scaling:
        """The scaling with the least negative log-likelihood of labels that no fit has seen.

        Args:
            logits: (N, C).
            labels: (N,) class indices, or (N, C) 0/1 with NaN where unknown.
            weights: (N,), or (N, C) with several labels; by default all rows count alike.

        Raises:
            DataError: no rows, or logits that are not finite.
        """
        logits = logits.detach().double().cpu()
        if logits.ndim != 2 or not logits.numel() or not logits.isfinite().all():
            raise DataError(f"calibration needs finite logits (N, C) of one image at least, not {tuple(logits.shape)}")
        labels = labels.detach().cpu()
        weights = torch.ones(labels.shape, dtype=torch.float64) if weights is None else weights.detach().double().cpu()
        if labels.ndim == 2:
            return _per_label(logits, labels.double(), weights)
        return cls(_temperature(logits, labels.long(), weights)[None], torch.zeros(1, dtype=torch.float64))

    def logits(self, logits: Tensor) -> Tensor:
        """(N, C) float64 scaled logits, on the CPU."""
        return logits.detach().double().cpu() / self.temperature + self.offset

    def probabilities(self, logits: Tensor, multilabel: bool) -> Tensor:
        """(N, C) float64: rows summing to 1, or one probability per label."""
        scaled = self.logits(logits)
        return scaled.sigmoid() if multilabel else scaled.softmax(dim=1)

    @property
    def words(self) -> str:
        """ "temperature 2.31", or the range over labels."""
        low, high = (f"{float(f'{end:.3g}'):g}" for end in (self.temperature.min(), self.temperature.max()))
        return f"temperature {low}" if len(self.temperature) == 1 else f"temperatures {low} to {high}"


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error: 15 equal bins, of the top class, or of all known labels where there are several.

    Args:
        logits: (N, C).
        labels: (N,), or (N, C) 0/1/NaN.
    """
    bins = [each for each in calibration_curve(logits, labels) if each.count]
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / sum(b.count for b in bins)


def _temperature(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """() float64. The likelihood is convex in 1 / temperature, so the zero of its slope is found by halving.

    Where all rows are right the likelihood has no maximum: any logits would do if they were larger. Then each target
    keeps a share of 1 / (N + 2) for the other classes, as if one of N + 2 such rows were wrong (Laplace).
    """
    count, classes = logits.shape
    target = torch.nn.functional.one_hot(labels, classes).double()  # (N, C)
    if classes > 1 and bool((logits.argmax(dim=1) == labels).all()):
        rest = 1 / (count + 2)
        target = target * (1 - rest) + (1 - target) * rest / (classes - 1)
    wanted = (logits * target).sum(dim=1)  # (N,)

    def slope(inverse: Tensor) -> Tensor:
        probs = (logits * inverse).softmax(dim=1)
        return (weights * ((probs * logits).sum(dim=1) - wanted)).sum()

    return 1 / _zero(slope, torch.tensor(1 / HIGHEST).double(), torch.tensor(1 / LOWEST).double())


def _per_label(logits: Tensor, labels: Tensor, weights: Tensor) -> Scaling:
    """Slope and offset of each label by logistic regression, with Platt's targets; the slope is never negative."""
    known = ~labels.isnan()
    positive, negative = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)  # (L,)
    enough = (positive >= FEWEST_OF_EACH) & (negative >= FEWEST_OF_EACH)
    target = torch.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))  # (N, L)
    weights = torch.where(known, weights, 0.0)

    def offset_of(inverse: Tensor) -> Tensor:
        """(L,) the best offset at a slope."""
        reach = (inverse * logits).abs().amax(dim=0) + 50
        low, high = -reach, reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            above = (weights * ((inverse * logits + middle).sigmoid() - target)).sum(dim=0) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def slope(inverse: Tensor) -> Tensor:
        probs = (inverse * logits + offset_of(inverse)).sigmoid()
        return (weights * (probs - target) * logits).sum(dim=0)

    ends = torch.full((2, logits.shape[1]), 1 / HIGHEST, dtype=torch.float64)
    ends[1] = 1 / LOWEST
    inverse = torch.where(enough, _zero(slope, *ends), 1.0)
    return Scaling(1 / inverse, torch.where(enough, offset_of(inverse), 0.0))


def _zero(rising: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where a rising function of positive numbers is 0, or the end nearest to it."""
    low, high = low.log(), high.log()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = rising(middle.exp()) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()

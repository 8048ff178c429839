"""Whether a confidence of 80 % is right 80 % of the time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .classification import BINS, probabilities


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions with a confidence in [low, high).

    Attributes:
        low, high: edges of the bin; the last bin holds 1 too.
        count: predictions in it.
        confidence: their mean confidence, None where there are none.
        accuracy: the share of them that is right, None where there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def calibration_curve(logits: Tensor, labels: Tensor, bins: int = BINS) -> list[CalibrationBin]:
    """The reliability diagram behind the expected calibration error ("On Calibration of Modern Neural Networks",
    Guo et al. 2017, arXiv 1706.04599).

    Args:
        logits: (N, C).
        labels: (N,) class indices: the confidence is that of the top class. Or (N, C) 0/1/NaN: it is the probability
            of each known label, and `accuracy` is how often the label holds.
        bins: how many equal bins between 0 and 1.

    Returns:
        `bins` bins in order. The count-weighted mean of |accuracy - confidence| is the ECE.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 2:
        known = ~labels.isnan()
        confidence, right = probs[known], labels[known]  # (K,)
    else:
        predicted = logits.detach().cpu().argmax(dim=1)  # (N,)
        confidence = probs.gather(1, predicted[:, None]).squeeze(1)  # (N,)
        right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float32)
    where = (torch.bucketize(confidence.float(), edges, right=True) - 1).clamp(max=bins - 1)
    count = torch.bincount(where, minlength=bins)
    conf_sum = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, confidence)
    right_sum = torch.zeros(bins, dtype=torch.float64).index_add_(0, where, right)
    return [
        CalibrationBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=int(count[b]),
            confidence=float(conf_sum[b] / count[b]) if count[b] else None,
            accuracy=float(right_sum[b] / count[b]) if count[b] else None,
        )
        for b in range(bins)
    ]

"""Areas under curves, and calibration errors, each with the result of torchmetrics' function of that name.

Importing torchmetrics brings torchvision, transformers and matplotlib and costs three times what torch does, and every
fit is scored. The tests compare each function with torchmetrics' to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15


def auroc(scores: Tensor, truth: Tensor) -> float:
    """The area under the ROC curve, by trapezia.

    Args:
        scores: (N,) of any scale; only their order and their ties count.
        truth: (N,) bool or 0/1, of both kinds.
    """
    hits, alarms = _counts_at_thresholds(scores, truth)  # (T,) each
    return float(torch.trapezoid(F.pad(hits / hits[-1], (1, 0)), F.pad(alarms / alarms[-1], (1, 0))))


def average_precision(scores: Tensor, truth: Tensor) -> float:
    """The area under the curve of precision and recall, by steps; arguments as for `auroc`."""
    hits, alarms = _counts_at_thresholds(scores, truth)  # (T,) each
    precision, recall = hits / (hits + alarms), hits / hits[-1]
    steps = F.pad(recall.flip(0), (0, 1)).diff()  # from all images to none
    return float(-(steps * precision.flip(0)).sum())


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The expected calibration error over `BINS` equal bins (Guo et al., 2017, arXiv 1706.04599).

    Args:
        confidence: (N,) in 0..1.
        right: (N,) bool or 0/1, whether what has that confidence holds.
    """
    # torchmetrics gives a confidence of exactly 1 a bin of its own; just below 1 it falls in the last one.
    confidence = confidence.float().clamp(max=1 - torch.finfo(torch.float32).eps)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float32)
    bins = torch.bucketize(confidence, edges, right=True) - 1  # (N,)

    def per_bin(values: Tensor) -> Tensor:
        return torch.zeros(BINS + 1).scatter_add_(0, bins, values)

    count = per_bin(torch.ones_like(confidence))
    gaps = (per_bin(right.float()) / count).nan_to_num() - (per_bin(confidence) / count).nan_to_num()
    return float((gaps.abs() * (count / count.sum())).sum())


def _counts_at_thresholds(scores: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How many true and how many false rows score at least each distinct score, the highest first; (T,) int64 each."""
    order = scores.argsort(descending=True)
    scores, truth = scores[order], truth[order].long()
    last = F.pad((scores[1:] != scores[:-1]).nonzero().flatten(), (0, 1), value=len(scores) - 1)  # of each tie
    hits = truth.cumsum(0)[last]
    return hits, 1 + last - hits

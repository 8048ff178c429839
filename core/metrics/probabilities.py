"""Logits and labels, checked and made ready for the metrics."""

from __future__ import annotations

from torch import Tensor

from ..contracts.errors import DataError


def probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of logits, and the labels that belong to them, both on the CPU.

    In float64: logits of a CLIP (cosines times 100) saturate a float32 softmax, which makes ties out of differences.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) 0/1 with NaN where unknown.

    Returns:
        (N, C) float64: softmax over classes, or a sigmoid each where labels are (N, C); and the labels, int64 (N,) or
        float64 (N, C).

    Raises:
        DataError: no rows, sizes that disagree, labels out of range, or logits that are not finite.
    """
    logits, labels = logits.detach().double().cpu(), labels.detach().cpu()
    if logits.ndim != 2 or len(logits) == 0:
        raise DataError(f"scores have shape {tuple(logits.shape)}; (N, C) with at least one test image is needed")
    if not logits.isfinite().all():
        raise DataError("scores hold NaN or infinity: the fit diverged; try a smaller learning rate or full precision")
    several = labels.ndim == 2
    wanted = logits.shape if several else logits.shape[:1]
    if labels.shape != wanted:
        raise DataError(f"labels have shape {tuple(labels.shape)} for scores of shape {tuple(logits.shape)}")
    if several:
        return logits.sigmoid(), labels.double()
    labels = labels.long()
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(f"labels reach from {labels.min()} to {labels.max()} for {logits.shape[1]} classes")
    return logits.softmax(dim=1), labels

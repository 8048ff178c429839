"""All metrics of a classifier on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .classification import classification_metrics, multilabel_metrics


def metrics_of(logits: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1; none without labels.

    Args:
        logits: (N, C).
        labels: (N,) int64, or (N, C) of 0, 1 and NaN (unknown).
        class_names: C names.
    """
    if labels is None:
        return {}
    logits, labels, names = logits.float().cpu(), labels.cpu(), list(class_names)
    several = labels.ndim == 2
    return multilabel_metrics(logits, labels, names) if several else classification_metrics(logits, labels, len(names))

"""All metrics of a classifier on rows of features with labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..contracts.features import FeatureSet
from ..contracts.metric import Metric
from .classification import classification_metrics, multilabel_metrics


def metrics_of(
    logits: Tensor, test: FeatureSet, class_names: Sequence[str], further: Sequence[Metric] = ()
) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1; none without labels.

    Args:
        logits: (N, C).
        test: the N rows.
        class_names: C names.
        further: metrics of a domain's own.
    """
    if test.labels is None:
        return {}
    logits, labels = logits.float().cpu(), test.labels.cpu()
    if test.multilabel:
        values = multilabel_metrics(logits, labels, list(class_names))
    else:
        values = classification_metrics(logits, labels, len(class_names))
    for metric in further:
        if metric.multilabel or not test.multilabel:
            values.update(metric.values(logits, labels, class_names))
    return values

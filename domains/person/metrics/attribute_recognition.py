"""How attributes of people are scored: mean accuracy over attributes, and four measures over images.

"A Richly Annotated Dataset for Pedestrian Attribute Recognition" (Li et al. 2016, arXiv 1603.07054). An attribute is
said to be there from a probability of 0.5 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ....core.contracts import Metric


class AttributeRecognition(Metric):
    """mean_accuracy (mA): mean over attributes of the mean of the shares of positives and of negatives that are right;
    an attribute without both among the known labels is left out.

    instance_accuracy, instance_precision, instance_recall: means over images of |true and said| / |true or said|, of
    |true and said| / |said| and of |true and said| / |true|; images without a true attribute are left out, one of which
    nothing is said has precision 0. instance_f1: the harmonic mean of the last two. Unknown labels (NaN) do not count.
    """

    multilabel: ClassVar[bool] = True

    def compute(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        """By name; what cannot be told is left out. None where images have one label each."""
        if labels.ndim != 2:
            return {}
        known, said, true = ~labels.isnan(), logits > 0, labels == 1  # (N, C) each
        rates = balanced_rates(said, true, known).mean(dim=0)  # (C,)
        scores = {"mean_accuracy": float(rates[~rates.isnan()].mean())} if not rates.isnan().all() else {}
        return {**scores, **instance_scores(said & known, true)}

    def values(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        return self.compute(logits, labels, class_names)


def balanced_rates(said: Tensor, true: Tensor, known: Tensor) -> Tensor:
    """(2, C) float64: shares of positives said to be there, and of negatives not said to be; NaN where none is known.

    Args:
        said, true, known: (N, C) bool.
    """
    absent = known & ~true
    found = (said & true).sum(dim=0).double() / true.sum(dim=0)
    passed = (~said & absent).sum(dim=0).double() / absent.sum(dim=0)
    return torch.stack([found, passed])


def instance_scores(said: Tensor, true: Tensor) -> dict[str, float]:
    """The four measures over images; none where no image has an attribute.

    Args:
        said, true: (N, C) bool, false where the label is unknown.
    """
    having = true.any(dim=1)
    said, true = said[having], true[having]
    if not len(true):
        return {}
    both = (said & true).sum(dim=1).double()
    accuracy = float((both / (said | true).sum(dim=1)).mean())
    precision = float((both / said.sum(dim=1).clamp(min=1)).mean())
    recall = float((both / true.sum(dim=1)).mean())
    f1 = 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)
    return {
        "instance_accuracy": accuracy,
        "instance_precision": precision,
        "instance_recall": recall,
        "instance_f1": f1,
    }

"""How well the worst class is recognised."""

from __future__ import annotations

import torch

from vladapt import Metric


class WorstClass(Metric):
    """The lowest recall among the classes that the test set has."""

    name = "worst-class"

    def compute(self, logits, labels, class_names):
        right = logits.argmax(dim=1) == labels
        return float(torch.stack([right[labels == label].float().mean() for label in labels.unique()]).min())

"""A linear head on unit image features that starts as the zero-shot classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts.text import TextClassifier

REFERENCE_SCALE = 100.0
"""Published rates assume CLIP's logit scale."""


class LinearHead(nn.Module):
    """Unit features times (C, D) weights plus a bias: only what goes in is normalised.

    The weights are kept as if the logit scale were 100, so that a step of a given rate means the same on any backbone.

    Args:
        rows: (C, D) unit rows, or differences of such, of each class.
        bias: (C,).
        scale: logit scale at the start.
    """

    def __init__(self, rows: Tensor, bias: Tensor, scale: float):
        super().__init__()
        self.factor = scale / REFERENCE_SCALE
        self.kept = nn.Parameter(REFERENCE_SCALE * rows)
        self.bias = nn.Parameter(bias.clone())

    @classmethod
    def of(cls, classifier: TextClassifier) -> LinearHead:
        """Its logits are those of the classifier; with negative prompts their difference."""
        rows, bias = classifier.weights, classifier.logit_bias or 0.0
        if classifier.negative is not None:
            rows, bias = rows - classifier.negative, 0.0
        return cls(rows, rows.new_full((len(rows),), bias), classifier.logit_scale)

    @property
    def weight(self) -> Tensor:
        """(C, D)."""
        return self.factor * self.kept

    def forward(self, unit: Tensor) -> Tensor:
        """(B, D) unit features -> (B, C). In float32 under autocast too."""
        with torch.autocast(unit.device.type, enabled=False):
            return F.linear(unit.float(), self.weight, self.bias)

    def squared_gradients(self, unit: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean over samples of the squared gradient of each one's own loss, in closed form.

        Args:
            unit: (N, D).
            labels: (N,) classes, or (N, C) of 0 and 1.
        """
        logits = self(unit)
        if labels.ndim == 1:
            of_logits = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
        else:
            of_logits = (logits.sigmoid() - labels) / logits.shape[1]
        squares = of_logits.square()  # (N, C)
        return {"kept": squares.T @ (self.factor * unit).square() / len(unit), "bias": squares.mean(dim=0)}

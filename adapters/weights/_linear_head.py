"""A linear head on unit image features that starts as the zero-shot classifier, and how WiSE-FT trains it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.contracts import TextClassifier
from ...core.training import LearningRates, epoch_batches, label_loss, train_epochs
from ._changes import HEAD, Weights, drawn_labels

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


def train_head(
    head: LinearHead,
    unit: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    rise: Callable[[int], float],
    clip_grad: float | None,
    label_smoothing: float,
    priors: Tensor | None = None,
    seed: int,
) -> list[dict[str, float]]:
    """Train in place by AdamW, a rise and a cosine per step; one dict per epoch (epoch, loss, lr of its first step).

    Args:
        unit: (N, D) unit features.
        labels: (N,) classes, or (N, C) of 0, 1 and NaN.
        priors: (C,) log shares of the classes, for `label_loss`, or None.
        rise: all steps -> those of the warm-up, a share below 1 or a count.
    """
    criterion = label_loss(True) if labels.ndim == 2 else label_loss(False, priors, label_smoothing=label_smoothing)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    batches = epoch_batches(len(unit), batch_size, seed, device=unit.device)
    steps = len(batches(0))
    rates = LearningRates.cosine(lr, epochs * steps, rise(epochs * steps))

    def loss_of(epoch: int, index: Tensor) -> Tensor:
        return criterion(head(unit[index]), labels[index])

    training = train_epochs(optimizer, rates.by_epoch(steps), batches, loss_of, clip_grad=clip_grad)
    return [epoch.row() for epoch in training]


@torch.no_grad()
def fisher_of_head(head: LinearHead, unit: Tensor, passes: int, seed: int, several: bool) -> Weights:
    """As `fisher_information` has it, of a head alone on (N, D) unit features."""
    generator = torch.Generator().manual_seed(seed)
    logits = head(unit)
    drawn = [head.squared_gradients(unit, drawn_labels(logits, several, generator)) for _ in range(passes)]
    return {HEAD + name: torch.stack([one[name] for one in drawn]).mean(dim=0) for name in drawn[0]}

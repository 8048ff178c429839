"""Several changes of one projection learned at once, each with its own learning rate and penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import TextClassifier

EPS = 1e-4
"""Adam's, as published."""
GROUP_BYTES = 1 << 30
"""What the runs that are trained together may take."""
FUSED = ("cpu", "cuda")
"""Devices on which torch updates a weight in one pass over memory."""
TINY = 1e-24


@dataclass(frozen=True)
class ProjectedTexts:
    """What images are scored against.

    Args:
        rows: (C, R) of each class, of the columns that some text reads.
        columns: (R,) which columns these are. A change of the others would but make features longer or shorter.
        scale: what cosines are multiplied by.
        bias: what is added to them.
        width: D.
    """

    rows: Tensor
    columns: Tensor
    scale: float
    bias: float
    width: int

    @classmethod
    def of(cls, classifier: TextClassifier) -> ProjectedTexts:
        """With negative prompts (several labels per image) a row is the positive minus the negative prompt."""
        rows, bias = classifier.weights, classifier.logit_bias or 0.0
        if classifier.negative is not None:
            rows, bias = rows - classifier.negative, 0.0
        columns = rows.any(dim=0).nonzero().flatten()
        return cls(rows[:, columns], columns, classifier.logit_scale, bias, rows.shape[1])

    def logits(self, projected: Tensor, added: Tensor) -> Tensor:
        """(N, D) features and what G runs add to their read columns, (N, G, R) -> (N, G, C)."""
        read = projected[:, self.columns].unsqueeze(1) + added  # (N, G, R)
        unread = torch.ones(self.width, dtype=torch.bool, device=projected.device).index_fill(0, self.columns, False)
        length = (read.square().sum(dim=-1) + projected[:, unread].square().sum(dim=-1, keepdim=True) + TINY).sqrt()
        return self.scale * (read @ self.rows.T) / length.unsqueeze(-1) + self.bias


@dataclass(frozen=True)
class ProjectionTraining:
    """One training: its peak learning rate, the weight of the squared change, and what came of it.

    Attributes:
        change: (R, W) of the projection, transposed as `nn.Linear` keeps weights.
        losses: of each epoch.
    """

    lr: float
    penalty: float
    change: Tensor | None = None
    losses: Tensor | None = None

    def rate(self, epoch: int, epochs: int) -> float:
        """A cosine from the peak to 0."""
        return self.lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


def train_runs(
    images: Callable[[int], tuple[Tensor, Tensor]],
    labels: Tensor,
    text: ProjectedTexts,
    runs: Sequence[ProjectionTraining],
    epochs: int,
    priors: Tensor | None = None,
) -> Iterator[ProjectionTraining]:
    """Train all runs, as many at once as memory allows; each is returned before the next group starts.

    Args:
        images: epoch -> (N, W) features before the projection and (N, D) what the tower makes of them.
        labels: (N,) classes, or (N, C) of 0, 1 and NaN.
        priors: (C,) log shares of the classes, which are added to the logits in training (`log_priors`), or None.
    """
    hidden, _ = images(0)
    matrix = hidden.shape[1] * len(text.columns)
    size = 4 * (5 * matrix + 4 * len(hidden) * (len(text.columns) + len(text.rows)))
    together = max(1, GROUP_BYTES // size)
    for start in range(0, len(runs), together):
        group = runs[start : start + together]
        changes, losses = _train(images, labels, text, group, epochs, priors)
        for run, change, of_run in zip(group, changes, losses.T):
            yield ProjectionTraining(run.lr, run.penalty, change.clone(), of_run)


def _train(
    images, labels: Tensor, text: ProjectedTexts, runs: Sequence[ProjectionTraining], epochs: int, priors: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(G, R, W) changes and (epochs, G) losses of a full batch per epoch."""
    hidden, _ = images(0)
    changes = hidden.new_zeros(len(runs), len(text.columns), hidden.shape[1])
    penalties = hidden.new_tensor([run.penalty for run in runs]).view(-1, 1, 1)
    parts = list(changes)  # they share its memory, so that each run has a rate of its own in one optimiser
    groups = [{"params": [part], "lr": run.lr} for part, run in zip(parts, runs)]
    optimizer = torch.optim.Adam(groups, eps=EPS, fused=hidden.device.type in FUSED or None)
    history = []
    for epoch in range(epochs):
        leaf = changes.detach().requires_grad_()
        hidden, projected = images(epoch)
        added = F.linear(hidden, leaf.flatten(0, 1)).unflatten(1, changes.shape[:2])  # (N, G, R)
        logits = text.logits(projected, added)  # (N, G, C)
        losses = _mean_losses(logits if priors is None else logits + priors, labels)  # (G,)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        gradient.addcmul_(changes, penalties, value=2)
        history.append(losses.detach() + penalties.flatten() * torch.linalg.vector_norm(changes, dim=(1, 2)) ** 2)
        for part, grad, group, run in zip(parts, gradient, optimizer.param_groups, runs):
            part.grad, group["lr"] = grad, run.rate(epoch, epochs)
        optimizer.step()
    return changes, torch.stack(history)


def _mean_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, G, C) -> (G,): cross-entropy, or binary cross-entropy of the labels that are known."""
    if labels.ndim == 1:
        each = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]), reduction="none")
        return each.unflatten(0, logits.shape[:2]).mean(dim=0)
    known = ~torch.isnan(labels)
    targets = torch.nan_to_num(labels).unsqueeze(1).expand_as(logits)
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * known.unsqueeze(1)
    return each.sum(dim=(0, 2)) / known.sum().clamp(min=1)

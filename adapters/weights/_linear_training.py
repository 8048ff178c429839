"""How WiSE-FT trains its head on features that stay: AdamW, a rise and a cosine a step, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...core.losses.binary_cross_entropy import BinaryCrossEntropy
from ...core.losses.cross_entropy import CrossEntropy
from ...core.training.minibatches import minibatches
from ...core.training.schedules import set_learning_rate
from ...core.training.settings import warmup_steps
from ._interpolation import HEAD, Weights, drawn_labels
from ._linear_head import LinearHead


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
    seed: int,
) -> list[dict[str, float]]:
    """Train in place; one dict an epoch (epoch, loss, lr of its first step).

    Args:
        unit: (N, D) unit features.
        labels: (N,) classes, or (N, C) of 0, 1 and NaN.
        rise: all steps -> those of the warm-up, a share below 1 or a count.
    """
    criterion = BinaryCrossEntropy() if labels.ndim == 2 else CrossEntropy(label_smoothing=label_smoothing)
    parameters = list(head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    steps = epochs * math.ceil(len(unit) / batch_size)
    rates = step_rates(lr, steps, warmup_steps(rise(steps), steps))
    history, done = [], 0
    for epoch in range(epochs):
        losses, first = [], rates[done]
        for index in minibatches(len(unit), batch_size, epoch, seed):
            rows = index.to(unit.device)
            set_learning_rate(optimizer, rates[done])
            loss = criterion({"logits": head(unit[rows]), "labels": labels[rows]})["loss"]
            optimizer.zero_grad()
            loss.backward()
            if clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        history.append({"epoch": epoch + 1, "loss": float(torch.stack(losses).mean()), "lr": first})
    return history


def step_rates(lr: float, steps: int, rise: int) -> list[float]:
    """The rate of each step: up to `lr` in `rise` steps, then down a cosine that would reach 0 after the last."""
    up = [lr * (step + 1) / rise for step in range(min(rise, steps))]
    return up + [lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2 for step in range(rise, steps)]


@torch.no_grad()
def fisher_of_head(head: LinearHead, unit: Tensor, passes: int, seed: int, several: bool) -> Weights:
    """As `fisher_information` has it, of a head alone on (N, D) unit features."""
    generator = torch.Generator().manual_seed(seed)
    logits = head(unit)
    drawn = [head.squared_gradients(unit, drawn_labels(logits, several, generator)) for _ in range(passes)]
    return {HEAD + name: torch.stack([one[name] for one in drawn]).mean(dim=0) for name in drawn[0]}

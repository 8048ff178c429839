"""Auto-PGD: "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", Croce
and Hein, 2020, arXiv 2003.01690.

Steps of the sign of the gradient with momentum, from 2 eps on, in the ball |offset| <= eps. At checkpoints that come
closer and closer, the step of an image is halved, and it goes back to its best point, where its loss grew in fewer than
three quarters of the steps, or where neither step nor best loss changed since the checkpoint before.

The code of Robust CLIP takes the largest entry of the embedding, not of the logits, for the answer, and so returns any
last iterate. Here an image is fooled where the largest logit is of another class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .pgd import TINY, ascent

STEPS = 100
"""As AutoAttack publishes."""
TARGETS = 9
"""Classes that the targeted attack goes for, at most."""
FIRST, CLOSER, LAST = 0.22, 0.03, 0.06
"""Shares of the steps: before the first checkpoint, by which the next comes sooner, and between two at the least."""
GROWING = 0.75
LogitsLoss = Callable[[Tensor, Tensor], Tensor]
"""(B, C) logits and (B,) classes -> (B,) losses."""


@dataclass(frozen=True)
class Attacked:
    """What an attack came to.

    Attributes:
        images: (B, ...) of the highest loss that it saw.
        losses: (B,) of these.
        fooled: (B,) bool, whether the largest logit was of another class at any step.
    """

    images: Tensor
    losses: Tensor
    fooled: Tensor


def apgd(
    logits_of: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    loss: LogitsLoss | None = None,
    steps: int = STEPS,
    start: Tensor | None = None,
) -> Attacked:
    """Nothing waits for the device.

    Args:
        logits_of: images -> (B, C), in float32 at least.
        images: (B, ...) in 0..1.
        labels: (B,) of the right classes.
        eps: largest change of a pixel.
        loss: that is to grow; cross-entropy by default.
        start: (B, ...) direction of the point that it begins at, on the surface of the ball; None: the image itself.
    """
    loss = loss or cross_entropy
    fooled = torch.zeros_like(labels, dtype=torch.bool)

    def losses_of(at: Tensor) -> Tensor:
        nonlocal fooled
        logits = logits_of(at)
        fooled = fooled | (logits.detach().argmax(dim=1) != labels)
        return loss(logits, labels)

    def in_ball(at: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(at, images - eps), images + eps).clamp(0, 1)

    shape = (-1, *[1] * (images.ndim - 1))
    at = images
    if start is not None:
        at = in_ball(images + eps * start / start.flatten(1).abs().amax(dim=1).view(shape).clamp(min=TINY))
    step = torch.full((len(images),), 2 * eps, dtype=images.dtype, device=images.device).view(shape)
    losses, gradient = ascent(losses_of, at)
    best, best_gradient, highest = at, gradient, losses
    at_check, halved = highest, torch.ones_like(highest, dtype=torch.bool)
    history = [
        torch.zeros_like(losses, dtype=torch.float32)
    ]  # as released, the first loss counts as grown where it is above 0
    between, since = max(int(FIRST * steps), 1), 0
    before = at
    for number in range(steps):
        moved = in_ball(at + step * gradient.sign())
        share = GROWING if number else 1.0
        at, before = in_ball(at + share * (moved - at) + (1 - share) * (at - before)), at
        losses, gradient = ascent(losses_of, at)
        history.append(losses.float())
        better = losses > highest
        best = torch.where(better.view(shape), at, best)
        best_gradient = torch.where(better.view(shape), gradient, best_gradient)
        highest = torch.where(better, losses, highest)
        since += 1
        if since < between:
            continue
        recent = torch.stack(history[-between - 1 :])  # (K + 1, B)
        grown = (recent[1:] > recent[:-1]).sum(dim=0)
        halved = (grown <= GROWING * between) | (~halved & (at_check >= highest))
        at_check = highest
        step = torch.where(halved.view(shape), step / 2, step)
        at = torch.where(halved.view(shape), best, at)
        gradient = torch.where(halved.view(shape), best_gradient, gradient)
        between, since = max(between - max(int(CLOSER * steps), 1), int(LAST * steps), 1), 0
    return Attacked(best, highest, fooled)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def log_odds_against(logits: Tensor, labels: Tensor) -> Tensor:
    """Log odds against the right class, of which cross-entropy is the softplus: both grow together, along gradients of
    the same sign, and this one's does not vanish where an answer is sure."""
    right = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1) - right


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio: how far the largest other logit is above the right one, over the first less the third
    of all; three classes at least."""
    ordered = logits.sort(dim=1).values
    right = logits.gather(1, labels[:, None]).squeeze(1)
    other = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return (other - right) / (ordered[:, -1] - ordered[:, -3] + TINY)


def targeted_dlr(targets: Tensor) -> LogitsLoss:
    """The same of one class to be answered, over the first less the mean of the third and the fourth; four classes at
    least.

    Args:
        targets: (B,).
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        ordered = logits.sort(dim=1).values
        right, target = (logits.gather(1, each[:, None]).squeeze(1) for each in (labels, targets))
        return (target - right) / (ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2 + TINY)

    return loss


def fooled_by_apgd(
    logits_of: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    start: Tensor | None = None,
    steps: int = STEPS,
) -> Tensor:
    """(B,) bool: cross-entropy first, as `log_odds_against`; then, of the images that it did not fool, the classes of
    the highest logits one by one by `targeted_dlr`; with three classes `dlr`, with two nothing more.

    Args:
        As of `apgd`.
    """
    with torch.no_grad():
        logits = logits_of(images)
    order, classes = logits.argsort(dim=1, descending=True), logits.shape[1]
    fooled = order[:, 0] != labels

    def attack(loss_of: Callable[[Tensor], LogitsLoss]) -> None:
        left = (~fooled).nonzero().squeeze(1)
        if len(left):
            begun = None if start is None else start[left]
            of, truth = images[left], labels[left]
            fooled[left] = apgd(logits_of, of, truth, eps=eps, loss=loss_of(left), steps=steps, start=begun).fooled

    def targeted(rank: int, left: Tensor) -> LogitsLoss:
        return targeted_dlr(order[left, rank])

    attack(lambda left: log_odds_against)
    if classes == 3:
        attack(lambda left: dlr)
    for rank in range(1, min(TARGETS, classes - 1) + 1) if classes > 3 else ():
        attack(partial(targeted, rank))
    return fooled

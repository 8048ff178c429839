"""Learning rates as numbers known before the training starts.

CoOp and most prompt learners after it train as Dassl does (Zhou et al., Domain Adaptive Ensemble Learning, 2020,
arXiv 2003.07325, Dassl.pytorch). Its warm-up schedulers do not run on a recent torch; here the rates are a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..contracts.options import require

WARMUPS = (None, "constant", "linear")


class LearningRates(list[float]):
    """The learning rate of each epoch, or of each step."""

    @classmethod
    def dassl(
        cls,
        lr: float,
        epochs: int,
        *,
        warmup: str | None = "constant",
        warmup_epochs: int = 1,
        warmup_lr: float = 1e-5,
        recount: bool = True,
    ) -> LearningRates:
        """The learning rate of each epoch: a warm-up, then a cosine over `epochs` that is stepped once per epoch.

        Args:
            lr: the peak.
            epochs: how many rates to give; also the half period of the cosine, warm-up or not.
            warmup: "constant" holds `warmup_lr`; "linear" starts there, then rises by lr / warmup_epochs per epoch;
                None.
            warmup_epochs: its length, ignored where `warmup` is None.
            warmup_lr: the rate of the first epoch.
            recount: Dassl's WARMUP_RECOUNT. True starts the cosine after the warm-up, so that it does not reach its
                end; False counts the warm-up's epochs as steps of the cosine, which still starts from the full `lr`.

        Raises:
            ConfigError: a value out of range.
        """
        require(lr > 0, "lr", lr, "give a number above 0")
        require(isinstance(epochs, int) and epochs >= 1, "epochs", epochs, "give a whole number, 1 or more")
        require(warmup in WARMUPS, "warmup", warmup, "there are constant, linear and None")
        require(isinstance(warmup_epochs, int) and warmup_epochs >= 0, "warmup_epochs", warmup_epochs, "give 0 or more")
        require(warmup_lr >= 0, "warmup_lr", warmup_lr, "give 0 or more")
        length = warmup_epochs if warmup else 0
        rates = [_warm(e, lr, length, warmup, warmup_lr) for e in range(min(length, epochs))]
        if recount or not length:
            return cls(rates + [lr * _cosine(e - length, epochs) for e in range(length, epochs)])
        # Dassl's cosine multiplies the rate by the ratio of two neighbouring values, so a late start keeps its offset.
        start = _cosine(length, epochs)
        return cls(rates + [lr * _cosine(e, epochs) / start for e in range(length, epochs)])

    @classmethod
    def cosine(cls, lr: float, steps: int, rise: float = 0) -> LearningRates:
        """The rate of each step: up to `lr` in `rise` steps, then down a cosine that would reach 0 after the last.

        Args:
            rise: steps, or below 1 a share of all.
        """
        rise = round(rise * steps) if rise < 1 else int(rise)
        up = [lr * (step + 1) / rise for step in range(min(rise, steps))]
        down = [lr * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2 for step in range(rise, steps)]
        return cls(up + down)

    def by_epoch(self, steps: int) -> list[Sequence[float]]:
        """The rate of each step -> those of each epoch of so many steps; the last epoch may have fewer."""
        return [self[start : start + steps] for start in range(0, len(self), steps)]


cosine_rates = LearningRates.cosine
"""Its public name."""


def by_epoch(rates: Sequence[float], steps: int) -> list[Sequence[float]]:
    """`LearningRates.by_epoch` under the public name that it had."""
    return LearningRates(rates).by_epoch(steps)


def epoch_step_rates(
    lr: float, epochs: int, *, warmup_epochs: int, warmup_lr: float, milestones: Sequence[int], factor: float
) -> list[float]:
    """The learning rate of each epoch, counted from 1: a linear rise from `warmup_lr` before the first, which reaches
    the peak in epoch `warmup_epochs`, and times `factor` from each milestone on.

    "Bag of Tricks and A Strong Baseline for Deep Person Re-identification", 2019, arXiv 1903.07071.
    """
    rates = []
    for epoch in range(1, epochs + 1):
        peak = lr * factor ** sum(epoch >= milestone for milestone in milestones)
        risen = min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
        rates.append(peak * (warmup_lr / lr * (1 - risen) + risen))
    return rates


def epoch_cosine_rates(lr: float, epochs: int, *, warmup_epochs: int, warmup_lr: float) -> list[float]:
    """The learning rate of each epoch: a linear rise from `warmup_lr`, then a cosine that would reach 0 after the last.

    "Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval", 2023, arXiv 2303.12501.

    Args:
        lr: the peak, which the epoch after the rise has.
        epochs: how many rates to give.
        warmup_epochs: of the rise.
    """
    rise = min(warmup_epochs, epochs)
    up = [warmup_lr + (lr - warmup_lr) * epoch / warmup_epochs for epoch in range(rise)]
    return up + [lr * _cosine(epoch - rise, epochs - rise) for epoch in range(rise, epochs)]


def rewarmed_rates(lr: float, steps: int, *, warmup: int, end_lr: float) -> list[float]:
    """The rate of each step t = 0 .. steps: lr * max(1, t) / warmup up to t = warmup, then a cosine that reaches
    `end_lr` at t = steps. The same again for each further set re-warms and re-decays.

    "Simple and Scalable Strategies to Continually Pre-train Large Language Models" (Ibrahim et al., 2024,
    arXiv 2403.08763).
    """
    up = [lr * max(1, step) / warmup for step in range(min(warmup, steps) + 1)] if warmup else []
    span = max(1, steps - warmup)
    down = [end_lr + (lr - end_lr) * _cosine(step - warmup, span) for step in range(len(up), steps + 1)]
    return up + down


def infinite_rates(
    lr: float, steps: int, *, warmup: int, cooldown: int, constant_lr: float, annealed_from: int, end_lr: float
) -> list[float]:
    """The rate of each step t = 0 .. steps of the infinite schedule of the same paper, from whose constant part a
    training goes on with further data, without another warm-up: a linear rise, a cosine down to `constant_lr` in
    `cooldown` steps, constant up to t = annealed_from, and constant_lr * (end_lr / constant_lr)^share down to `end_lr`.
    """
    rates = []
    for step in range(steps + 1):
        if step < warmup:
            rate = lr * max(1, step) / warmup
        elif step < warmup + cooldown:
            rate = constant_lr + (lr - constant_lr) * _cosine(step - warmup, cooldown)
        elif step <= annealed_from:
            rate = constant_lr
        else:
            rate = constant_lr * (end_lr / constant_lr) ** ((step - annealed_from) / (steps - annealed_from))
        rates.append(rate)
    return rates


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups the rate of the epoch."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _warm(epoch: int, lr: float, length: int, warmup: str | None, warmup_lr: float) -> float:
    if warmup == "constant" or epoch == 0:
        return warmup_lr
    return lr * epoch / length


def _cosine(epoch: int, epochs: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))

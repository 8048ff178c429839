"""What some trainings do once an epoch: a rate for each, as Dassl has it, and PromptSRC's average of weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.hooks import Hook

from .hooks import model_of
from .teacher import follow


class EpochRateHook(Hook):
    """One learning rate an epoch.

    Args:
        shares: of each parameter group's own rate, one an epoch.
    """

    def __init__(self, shares: Sequence[float]):
        self.shares = shares

    def before_train(self, runner) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # a resume, which comes after this, has the same

    def before_train_epoch(self, runner) -> None:
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.shares[runner.epoch]


class EpochAverageHook(Hook):
    """The weights at the ends of epochs, averaged by a Gaussian over the epochs: after the last one, sum_e g_e w_e with
    g_e = N(e; mean, deviation) and sum_e g_e = 1, e from 1.

    Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting (PromptSRC), 2023,
    arXiv 2307.06948, section 3.2.2. In between, the average holds that of the epochs so far.

    Args:
        average: a copy of the towers.
        gaussian: mean and deviation, in epochs.
    """

    def __init__(self, average: torch.nn.Module, gaussian: tuple[float, float]):
        self.average, self.gaussian = average, gaussian

    def after_train_epoch(self, runner) -> None:
        follow(self.average, model_of(runner).towers, 1 - newest_share(runner.epoch + 1, *self.gaussian))


def newest_share(epochs: int, mean: float, deviation: float) -> float:
    """Share of the last of so many epochs in the Gaussian average over them. In logarithms, since far from the mean all
    of its values vanish."""
    logs = -0.5 * ((torch.arange(1, epochs + 1, dtype=torch.float64) - mean) / deviation) ** 2
    return float((logs[-1] - logs.logsumexp(dim=0)).exp())

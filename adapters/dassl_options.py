"""How methods are trained on features as Dassl trains: their options, and their epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.contracts import FeatureSet, option
from ..core.training import LearningRates, epoch_batches, train_epochs, training_features


def dassl_batch_size(default: int) -> Any:
    """The option `batch_size`."""
    return option(
        default, "images per step; an incomplete last batch is dropped where there is a full one", low=1, high=1_048_576
    )


def dassl_warmup() -> Any:
    """The option `warmup`."""
    return option(
        "constant", "warm-up in the first epoch: constant at 1e-5, linear, or none", choices=("constant", "linear")
    )


def dassl_epochs(
    optimizer: torch.optim.Optimizer,
    support: FeatureSet,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    seed: int,
    *,
    batch_size: int,
    warmup: str | None,
    views: Any,
    order: Tensor | None,
) -> Iterator[Any]:
    """`train_epochs` as Dassl does it: one rate per epoch, a warm-up and then a cosine from the optimiser's own rate;
    an incomplete last batch is dropped where there is a full one.

    Args:
        support: N labelled images.
        loss_of: (unit features (B, D), labels) -> loss.
        warmup: as in `LearningRates.dassl`.
        views: as in `training_features`.
        order: (epochs, N) int64 overriding the shuffle.
    """
    device = support.features.device
    batches = epoch_batches(len(support), batch_size, seed, order=order, drop_last=True, device=device)
    of_epochs = LearningRates.dassl(optimizer.defaults["lr"], epochs, warmup=warmup)
    rates = [[rate] * len(batches(0)) for rate in of_epochs]

    def loss_of_step(epoch: int, index: Tensor) -> Tensor:
        return loss_of(training_features(support, index, views, epoch), support.targets[index])

    return train_epochs(optimizer, rates, batches, loss_of_step)

"""The order in which a training run sees its samples: a function of (seed, epoch) and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contracts.errors import ConfigError


def epoch_order(size: int, epoch: int, seed: int, order: Tensor | None = None) -> Tensor:
    """(size,) int64 permutation of an epoch's samples.

    Args:
        size: number of samples.
        epoch: from 0.
        seed: fixes the shuffle.
        order: (epochs, size) int64, overrides the shuffle (`resources={"batch_order": ...}`).

    Raises:
        ConfigError: `order` has no such epoch, or is made for another number of samples.
    """
    if order is None:
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    if order.ndim != 2 or order.shape[1] != size or epoch >= len(order):
        raise ConfigError(
            f"batch_order has shape {tuple(order.shape)}; epoch {epoch} of {size} samples needs a row of {size}"
        )
    return order[epoch].cpu()


def minibatches(
    size: int, batch_size: int, epoch: int, seed: int, *, order: Tensor | None = None, drop_last: bool = False
) -> list[Tensor]:
    """The batches of one epoch, int64 indices; the last may be smaller.

    Args:
        drop_last: leave a smaller last batch out, unless it is the only one.

    Raises:
        ConfigError: see `epoch_order`.
    """
    batches = list(epoch_order(size, epoch, seed, order).split(batch_size))
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def epoch_batches(
    size: int,
    batch_size: int,
    seed: int,
    *,
    order: Tensor | None = None,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
) -> Callable[[int], list[Tensor]]:
    """Epoch -> its `minibatches`, indices on `device`."""

    def batches(epoch: int) -> list[Tensor]:
        made = minibatches(size, batch_size, epoch, seed, order=order, drop_last=drop_last)
        return [batch.to(device) for batch in made]

    return batches

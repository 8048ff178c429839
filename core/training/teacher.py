"""Teachers and averages: weights that follow the towers slowly, or towers that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from .sharding import local_parts


def copy_of(backbone: Backbone) -> Backbone:
    """The same backbone with towers of its own, frozen, in eval mode."""
    copied = deepcopy(backbone)
    copied.model.requires_grad_(False).eval()
    return copied


def weights_of(towers: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, as they are and not copied; of sharded towers what is sharded."""
    return towers.state_dict(keep_vars=True)


def copied_weights(towers: nn.Module) -> dict[str, Tensor]:
    """As `weights_of`, copied and without gradients: each process has the same shards of them as of the towers."""
    return {name: value.detach().clone() for name, value in towers.state_dict().items()}


@torch.no_grad()
def follow(followers: Mapping[str, Tensor], leaders: Mapping[str, Tensor], keep: float) -> None:
    """follower = keep * follower + (1 - keep) * leader, of all weights; counts and tables are copied. Of sharded
    weights each process moves its own shards."""
    moving = [name for name, value in followers.items() if value.is_floating_point()]
    ours, theirs = (local_parts([weights[name].data for name in moving]) for weights in (followers, leaders))
    torch._foreach_lerp_(ours, theirs, 1 - keep)
    for name in followers.keys() - set(moving):
        followers[name].data.copy_(leaders[name].data)


@contextmanager
def swapped(towers: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Inside, the towers have these weights; None changes nothing."""
    if weights is None:
        yield
        return
    kept = copied_weights(towers)
    towers.load_state_dict(weights)
    try:
        yield
    finally:
        towers.load_state_dict(kept)

"""Weights of towers by name: copied, followed, swapped, mixed with those of the start, and what a training changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from .sharding import local_parts, shards_like


def copy_of(backbone: Backbone) -> Backbone:
    """The same backbone with towers of its own, frozen, in eval mode."""
    copied = deepcopy(backbone)
    copied.model.requires_grad_(False).eval()
    return copied


def all_weights(towers: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, as they are and not copied; of sharded towers what is sharded."""
    return towers.state_dict(keep_vars=True)


def copied_weights(towers: nn.Module) -> dict[str, Tensor]:
    """As `all_weights`, copied and without gradients: each process has the same shards of them as of the towers."""
    return {name: value.detach().clone() for name, value in towers.state_dict().items()}


@torch.no_grad()
def follow(followers: Mapping[str, Tensor], leaders: Mapping[str, Tensor], keep: float) -> None:
    """follower = keep * follower + (1 - keep) * leader, of all weights; counts and tables are copied. Of sharded
    weights each process moves its own shards."""
    moving = [name for name, value in followers.items() if value.is_floating_point()]
    leading = [shards_like(followers[name].data, leaders[name].data) for name in moving]
    ours, theirs = local_parts([followers[name].data for name in moving]), local_parts(leading)
    torch._foreach_lerp_(ours, theirs, 1 - keep)
    for name in followers.keys() - set(moving):
        followers[name].data.copy_(leaders[name].data)


@contextmanager
def swapped(towers: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Inside, the towers have these weights; None changes nothing."""
    if weights is None:
        yield
        return
    earlier = copied_weights(towers)
    towers.load_state_dict(weights)
    try:
        yield
    finally:
        towers.load_state_dict(earlier)


@dataclass(frozen=True)
class BetweenWeights:
    """Interpolated weight optimisation of "Open-VCLIP: Transforming CLIP to an Open-vocabulary Video Model via
    Interpolated Weight Optimization" (Weng et al., 2023, arXiv 2302.00624): a step's gradient is

        grad L(now) + ratio * grad L(a * start + (1 - a) * now),  a ~ U(low, high)

    where the second is taken at those weights and, as released, not multiplied by the 1 - a of the chain rule.

    Args:
        start: weights by name, of what the towers had before the training.
        ratio: weight of the second gradient.
        low, high: of how much of the start there is in it.
    """

    start: Mapping[str, Tensor]
    ratio: float
    low: float
    high: float

    @contextmanager
    def moved(self, towers: nn.Module, rng: np.random.Generator) -> Iterator[None]:
        """Inside, the weights that are trained are those between, drawn once."""
        share = rng.uniform(self.low, self.high)
        trained = {n: p for n, p in towers.named_parameters() if p.requires_grad and n in self.start}
        now = {name: parameter.detach().clone() for name, parameter in trained.items()}
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.lerp_(self.start[name].to(parameter), share)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(now[name])


def changed_tensors(trained: Backbone, base: Backbone) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of all parameters and buffers that differ, or that the base does not have."""
    before = base.model.state_dict()
    return {
        name: value.detach().cpu().clone()
        for name, value in trained.model.state_dict().items()
        if name not in before or not torch.equal(value, before[name])
    }

"""Teachers: a copy of the towers that follows them slowly, or towers that stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import nn

from ..contracts.backbone import Backbone


def copy_of(backbone: Backbone) -> Backbone:
    """The same backbone with towers of its own, frozen, in eval mode."""
    copied = deepcopy(backbone)
    copied.model.requires_grad_(False).eval()
    return copied


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher = keep * teacher + (1 - keep) * student, of all weights; counts and tables are copied."""
    weights, followed = teacher.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
    moving = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([weights[name].data for name in moving], [followed[name].data for name in moving], 1 - keep)
    for name in weights.keys() - set(moving):
        weights[name].data.copy_(followed[name].data)


@contextmanager
def swapped(towers: nn.Module, other: nn.Module | None) -> Iterator[None]:
    """Inside, the towers have the other's weights; None changes nothing."""
    if other is None:
        yield
        return
    weights = {name: value.detach().clone() for name, value in towers.state_dict().items()}
    towers.load_state_dict(other.state_dict())
    try:
        yield
    finally:
        towers.load_state_dict(weights)

"""The norms of a tower, which some methods train alone."""

from __future__ import annotations

from torch import nn

from ...core.contracts import Backbone


def norms_of(
    backbone: Backbone, tower: str, kinds: tuple[type[nn.Module], ...] = (nn.LayerNorm,)
) -> list[nn.Parameter]:
    """Weights and biases of the norms of "image" or "text"."""
    named = [(name, module) for name, module in backbone.model.named_modules() if isinstance(module, kinds)]
    return [p for name, module in named if backbone.tower_of(name) == tower for p in module.parameters()]

"""Backbones that know the colours of cells: `cell-colours:4` of 4 x 4."""

from __future__ import annotations

from torch import nn

import vladapt


def build(name: str) -> vladapt.Backbone:
    side = int(name)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.LayerNorm(3 * side * side))
    return vladapt.Backbone.from_module(encoder, image_size=32, embed_dim=3 * side * side)

"""Projection heads that self-supervised losses train beside the towers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def batch_norm_mlp(widths: Sequence[int], norm_last: bool = False) -> nn.Sequential:
    """Linear layers from each width to the next, BatchNorm and ReLU between them.

    Args:
        widths: of the input, of each hidden layer, of the output.
        norm_last: whether BatchNorm follows the last layer too, without ReLU.
    """
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.BatchNorm1d(out), nn.ReLU()]
    return nn.Sequential(*layers[: -1 if norm_last else -2])

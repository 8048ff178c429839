"""Matrices of low rank beside a detector's weights, which train in their place.

LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685: a weight W becomes W + B A, B begins at
zero; of a convolution W is taken as (outputs, inputs times kernel). They are torch's parametrizations, so a layer stays
the layer that it is to whatever reads its options. What projects features to the space of the texts trains whole, as a
new head does, and so do the rows of a closed head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ....core.errors import ConfigError
from ..hub_models.family import Family
from ..modules.classifiers.cosine import CosineTextClassifier

WEIGHT = "weight"


class _LowRank(nn.Module):
    """W -> W + B A.

    Args:
        weight: W, its first dimension the outputs.
        rank: rows of A (rank, F), columns of B (outputs, rank).
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        self.a = nn.Parameter(weight.new_empty(rank, inputs))
        self.b = nn.Parameter(weight.new_empty(outputs, rank))
        self.reset()

    def reset(self) -> None:
        """A uniform, B zero, as published."""
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        nn.init.zeros_(self.b)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).view_as(weight)


def add_low_rank(model: nn.Module, rank: int) -> None:
    """Freeze a detector and give its linear layers and convolutions that trained until now matrices that do, in place.

    Weights of the detector without matrices may be loaded afterwards, under the names that they had; mmengine's own
    initialisation is done before there are any.

    Raises:
        ConfigError: no layer is larger than the rank.
    """
    whole = [parameter for parameter in _of_head(model) if parameter.requires_grad]
    inside = {id(parameter) for parameter in whole}
    layers = [layer for layer in _layers(model, rank) if id(layer.weight) not in inside]
    if not layers:
        raise ConfigError(
            f"--lora-rank {rank}: {type(model).__name__} has no layer with more inputs and outputs; give a lower rank"
        )
    if isinstance(model, BaseModule):  # mmengine's go by the name `weight`, which the matrices' folder has, too
        model.init_weights()
    model.requires_grad_(False)
    for parameter in whole:
        parameter.requires_grad_(True)
    for layer in layers:
        parametrize.register_parametrization(layer, WEIGHT, _LowRank(layer.weight, rank))
        layer.register_load_state_dict_pre_hook(_under_its_own_name)


@torch.no_grad()
def merge_low_rank(model: nn.Module) -> None:
    """Add B A to the weights and take the matrices away, in place: the layers and names of before are back."""
    for layer in [each for each in model.modules() if _has_matrices(each)]:
        parametrize.remove_parametrizations(layer, WEIGHT, leave_parametrized=True)
        layer._load_state_dict_pre_hooks.clear()


def _of_head(model: nn.Module) -> Iterator[nn.Parameter]:
    """What projects features to the space of the texts, and the rows of a closed head, of which some are new."""
    for each in model.modules():
        if isinstance(each, CosineTextClassifier):
            yield from each.parameters()
    family = getattr(model, "family", None)
    if isinstance(family, Family):
        for name, parameter in model.model.named_parameters():
            if any(re.fullmatch(pattern, name) for pattern in family.head):
                yield parameter


def _layers(model: nn.Module, rank: int) -> Iterator[nn.Module]:
    for layer in model.modules():
        trains = isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.requires_grad
        if trains and min(layer.weight.flatten(1).shape) > rank:
            yield layer


def _has_matrices(layer: nn.Module) -> bool:
    return parametrize.is_parametrized(layer, WEIGHT) and isinstance(layer.parametrizations[WEIGHT][0], _LowRank)


def _under_its_own_name(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights of a detector without matrices are what these begin from, also where an initialisation drew anew."""
    if f"{prefix}{WEIGHT}" in state:
        matrices, inner = layer.parametrizations[WEIGHT][0], f"{prefix}parametrizations.{WEIGHT}"
        matrices.reset()
        own = {f"{inner}.0.{name}": value.detach() for name, value in matrices.named_parameters()}
        state.update({f"{inner}.original": state.pop(f"{prefix}{WEIGHT}"), **own})

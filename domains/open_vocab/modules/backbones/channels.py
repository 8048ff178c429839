"""mm's backbones and preprocessors for images of more than three channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models import DetDataPreprocessor
from torch import Tensor, nn

from .....core.contracts import InputChannels
from .....core.errors import CapabilityError
from .....registry import MODELS

RGB = 3


@MODELS.register_module()
def WidenedBackbone(backbone: Mapping[str, Any], names: Sequence[str], start: str = InputChannels.ZERO) -> nn.Module:
    """A backbone of mm (ResNet, Swin, MiT, ConvNeXt, CSPNeXt, ...) whose first convolution takes further channels.

    Its parameters have their usual names. Weights for three channels are widened when they are loaded, whether by
    `init_cfg`, `load_from` or `load_state_dict`; those of as many channels are taken as they are.

    Args:
        backbone: its config, as for three channels.
        names, start: of `InputChannels`.

    Raises:
        CapabilityError: no convolution takes three channels, or several do.
    """
    model = MODELS.build(dict(backbone))
    _widen(model, InputChannels(tuple(names), start), str(backbone.get("type")))
    return model


def _widen(model: nn.Module, channels: InputChannels, called: str) -> None:
    """Let the first convolution of a model take channels, in place.

    Raises:
        CapabilityError: as of `WidenedBackbone`.
    """
    layer = model.get_submodule(first_convolution(model, RGB, called))
    layer.weight = nn.Parameter(channels.first_layer(layer.weight.detach()), layer.weight.requires_grad)
    layer.in_channels = len(channels)
    widen_loaded(layer, channels)


def widen_loaded(layer: nn.Conv2d, channels: InputChannels) -> None:
    """Let a layer that takes channels load weights for three of them, too."""

    def widened(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        weight = state.get(f"{prefix}weight")
        if weight is not None and weight.shape[1] == RGB:
            state[f"{prefix}weight"] = channels.first_layer(weight)

    layer._register_load_state_dict_pre_hook(widened)


def first_convolution(model: nn.Module, count: int, called: str) -> str:
    """Name of the one convolution of a model that takes so many channels.

    Raises:
        CapabilityError: there is none, or there are several.
    """
    taking = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == count and module.groups == 1
    ]
    if len(taking) != 1:
        has = "no convolution" if not taking else f"{len(taking)} convolutions"
        raise CapabilityError(
            f"backbone {called} has {has} where {count} channels enter, so it cannot be widened; give --bands of three "
            "or another backbone, such as ResNet, Swin or CLIPVisionBackbone"
        )
    return taking[0]


@MODELS.register_module()
class ChannelDetDataPreprocessor(DetDataPreprocessor):
    """mmdet's, which takes one or three channels alone, for any number of them.

    Args:
        mean, std: of each channel, of values in 0..255.
        options: of mmdet's.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **options: Any):
        super().__init__(**options)
        self._enable_normalize = True
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), False)

"""Image towers of red, green and blue widened to more channels: bands of a sensor, stains, modalities.

The first convolution takes each further channel by weights of its own. They start at zero: whatever is in the further
channels, features at the start are those of the tower that was trained on three. Or they start with the mean of the
three, all scaled by 3 / channels, so that a grey picture that is alike in all channels has the features it had; timm
repeats the three in turn with the same scale ("timm", 2019, github.com/huggingface/pytorch-image-models,
`adapt_input_conv`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..contracts.families import ROOTS
from ..contracts.images import RGB, CropTransform, InputChannels
from ..errors import CapabilityError, DataError
from .preprocessing import Preprocess, normalize_

SEED_LIMIT = 2**31
UNCHANGED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and standard deviation of three channels that stay as they are."""


@dataclass(frozen=True)
class ChannelPreprocess(CropTransform):
    """A picklable callable: image of C channels -> pixels (C, S, S) float32.

    Three channels at a time go through the transform of the tower that was trained on three, with the same crop and
    flip, so that the first three are exactly what that makes of them. Further channels have the mean of its three
    means, and of its three deviations.

    Args:
        transform: of three channels.
        count: C.
    """

    transform: Preprocess
    count: int

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        return {"transform": "channels", "of": self.transform.spec, "count": self.count}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(C, S, S) float32 of an array (H, W, C), uint8 or float in 0..1.

        Of a picture of one or three channels the further ones are zero, which is their mean.

        Raises:
            DataError: an array of another shape or kind.
        """
        seed = int(torch.randint(SEED_LIMIT, ())) if seed is None and self.transform.train else seed
        array = None if isinstance(image, Image.Image) else np.asarray(image)
        if array is None or array.ndim == 2 or array.shape[-1] in (1, RGB):
            first = self.transform(image, seed=seed)
            return torch.cat([first, first.new_zeros(self.count - RGB, *first.shape[1:])])
        if array.ndim != 3 or array.shape[-1] != self.count:
            raise DataError(f"an image array of shape {array.shape} is not usable; give (H, W, {self.count})")
        groups = [array[..., start : start + RGB] for start in range(0, self.count, RGB)]
        made = [self._normalised(group, seed, first=not index) for index, group in enumerate(groups)]
        return torch.cat(made)  # (C, S, S)

    def with_crop(self, scale: tuple[float, float]) -> ChannelPreprocess:
        return ChannelPreprocess(self.transform.with_crop(scale), self.count)

    def without_flip(self) -> ChannelPreprocess:
        return ChannelPreprocess(self.transform.without_flip(), self.count)

    def _normalised(self, group: np.ndarray, seed: int | None, first: bool) -> Tensor:
        """(c, S, S) of up to three channels."""
        missing = RGB - group.shape[-1]
        padded = np.pad(group, ((0, 0), (0, 0), (0, missing))) if missing else group
        pixels = self.transform(np.ascontiguousarray(padded), seed=seed)
        if first:
            return pixels
        mean, std = (torch.tensor(side).view(-1, 1, 1) for side in (self.transform.mean, self.transform.std))
        return ((pixels * std + mean - mean.mean()) / std.mean())[: group.shape[-1]]


@dataclass(frozen=True)
class BandPreprocess(CropTransform):
    """A picklable callable: image of C channels -> pixels (C, S, S) float32, each channel with its own mean and
    standard deviation.

    Args:
        transform: resizes and crops; three channels at a time, all alike.
        mean, std: of each channel.
    """

    transform: Preprocess
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        object.__setattr__(self, "transform", replace(self.transform, mean=UNCHANGED[0], std=UNCHANGED[1]))

    @property
    def spec(self) -> dict[str, Any]:
        """What it does, JSON-able: part of the feature store's key."""
        statistics = {"mean": list(self.mean), "std": list(self.std)}
        return {"transform": "bands", "of": self.transform.spec, **statistics}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        """(C, S, S) float32 of an array (H, W, C), uint8 or float in 0..1; of three channels a picture will do.

        Raises:
            DataError: an array of another shape or kind.
        """
        count = len(self.mean)
        seed = int(torch.randint(SEED_LIMIT, ())) if seed is None and self.transform.train else seed
        if count == RGB:
            return normalize_(self.transform(image, seed=seed), self.mean, self.std)
        array = np.asarray(image)
        if isinstance(image, Image.Image) or array.ndim != 3 or array.shape[-1] != count:
            shape = array.shape if array.ndim else type(image).__name__
            raise DataError(f"an image of shape {shape} is not usable; give an array (H, W, {count})")
        made = []
        for start in range(0, count, RGB):
            group = array[..., start : start + RGB]
            width = group.shape[-1]
            padded = np.pad(group, ((0, 0), (0, 0), (0, RGB - width)))
            made.append(self.transform(np.ascontiguousarray(padded), seed=seed)[:width])
        return normalize_(torch.cat(made), self.mean, self.std)

    def with_crop(self, scale: tuple[float, float]) -> BandPreprocess:
        return replace(self, transform=self.transform.with_crop(scale))

    def without_flip(self) -> BandPreprocess:
        return replace(self, transform=self.transform.without_flip())


def input_layer(model: nn.Module, spec: str, count: int = RGB) -> tuple[str, nn.Conv2d]:
    """The one convolution of an image tower that takes so many channels, and its name.

    Raises:
        CapabilityError: there is none, or there are several.
    """
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == count and name.partition(".")[0] in ROOTS["image"]
    ]
    if len(layers) != 1:
        has = "no convolution" if not layers else f"{len(layers)} convolutions"
        raise CapabilityError(
            f"backbone '{spec}' has {has} where image channels enter, so it cannot take more than three; use a vision "
            "transformer or ResNet of CLIP's kind, or give three channels"
        )
    return layers[0]


@torch.no_grad()
def widen(model: nn.Module, spec: str, channels: InputChannels, further: Tensor | None = None) -> None:
    """Let a model take images of `channels`, in place.

    Args:
        further: (W, C - 3, k, k) trained weights of the further channels; by default they start as `channels` says.

    Raises:
        CapabilityError: as `input_layer`. DataError: weights of another shape.
    """
    name, layer = input_layer(model, spec)
    rgb, count = layer.weight, len(channels)
    shape = (rgb.shape[0], count - RGB, *rgb.shape[2:])
    if further is not None and tuple(further.shape) != shape:
        has = f"further channels of shape {tuple(further.shape)}"
        raise DataError(f"backbone '{spec}': {has} where {shape} are needed; copy it again")
    weights = channels.first_layer(rgb) if further is None else torch.cat([rgb, further.to(rgb)], dim=1)
    layer.weight = nn.Parameter(weights, requires_grad=layer.weight.requires_grad)
    layer.in_channels = count
    parent = model.get_submodule(name.rpartition(".")[0])
    if getattr(parent, "num_channels", None) == RGB:  # by which transformers checks its inputs
        parent.num_channels = count


# In a file the layer keeps its first three channels under the library's own name, so that other readers find the tower
# they know; the further ones stand beside it, with `InputChannels.facts` in the header.


def divided_channels(state: Mapping[str, Tensor], layer: str, name: str) -> dict[str, Tensor]:
    """A state dict whose `layer` has three channels; the further ones are under `name`."""
    weight = state[f"{layer}.weight"]
    return {**state, f"{layer}.weight": weight[:, :RGB], name: weight[:, RGB:]}

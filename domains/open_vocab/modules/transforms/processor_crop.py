"""Training pieces of images, of the size that a checkpoint's own processor prepares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcv.transforms import BaseTransform, RandomResize
from mmseg.datasets.transforms import RandomCrop

from .....core.errors import ConfigError
from .....registry import TRANSFORMS
from ...hub_models.processor import image_processor

LONGEST = 4
"""The longer side in shorter ones, at most."""


@TRANSFORMS.register_module()
class ProcessorCrop(BaseTransform):
    """An image and its map resized at random, so that the shorter side is the processor's times a factor, and a square
    piece of the processor's size, as SegFormer, Mask2Former and EoMT are trained.

    Args:
        processor: plain data, see `hub_models.processor`; {} for none yet.
        ratio_range: least and largest factor.
        cat_max_ratio: pieces of which one class has more than this are drawn again, up to ten times.

    Raises:
        ConfigError: it names no processor.
    """

    def __init__(
        self, processor: Mapping[str, Any], ratio_range: tuple[float, float] = (0.5, 2.0), cat_max_ratio: float = 0.75
    ):
        if not processor:
            raise ConfigError("ProcessorCrop: no model was named; give one to start from, --start hf:OWNER/NAME")
        side = image_processor(processor).side
        self.resize = RandomResize((LONGEST * side, side), tuple(ratio_range), "mmseg.Resize", keep_ratio=True)
        self.crop = RandomCrop((side, side), cat_max_ratio)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        return self.crop(self.resize(results))

    def __repr__(self) -> str:
        return f"ProcessorCrop(side={self.crop.crop_size[0]})"

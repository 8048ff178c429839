"""Image processors of transformers: their resizing, and the mean and std of values in 0..255."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ....core.errors import ConfigError
from .source import stable_text

KIND = "kind"
KINDS = frozenset(
    {"RTDetrImageProcessor", "RfDetrImageProcessor", "DetrImageProcessor", "DeformableDetrImageProcessor"}
    | {"ConditionalDetrImageProcessor", "YolosImageProcessor"}
    | {"SegformerImageProcessor", "DPTImageProcessor", "EomtImageProcessor", "ViTImageProcessor"}
    | {"Mask2FormerImageProcessor", "MaskFormerImageProcessor"}
    | {"SamImageProcessor", "Sam2ImageProcessor", "Sam3ImageProcessor"}
    | {"GroundingDinoImageProcessor", "Owlv2ImageProcessor", "OwlViTImageProcessor"}
)
"""Those that may be built; other families add theirs."""
FLOATS = frozenset({"RfDetrImageProcessor"})
"""They resize values in 0..1, and without smoothing what becomes smaller."""
PADDED_TO_SIZE = frozenset({"EomtImageProcessor"})
"""They pad to the size that they resize to, with black pixels."""
SIZING = ("size_divisor", "ensure_multiple_of", "keep_aspect_ratio")
"""Options besides the size by which some of them choose one."""


SQUARES = frozenset({"Owlv2ImageProcessor"})
"""They pad images to a square, right and below, before they resize them."""


class ImageProcessor:
    """One processor.

    Args:
        stated: its options as plain data, and its class as `kind`.

    Raises:
        ConfigError: no such processor, or options that it does not take.
    """

    def __init__(self, stated: Mapping[str, Any]):
        import transformers

        self.kind = str(stated.get(KIND))
        if self.kind not in KINDS or not hasattr(transformers, self.kind):
            raise ConfigError(f"processor '{self.kind[:60]}' is not known here; give one of {', '.join(sorted(KINDS))}")
        options = {key: value for key, value in stated.items() if key != KIND}
        try:
            self.processor = getattr(transformers, self.kind)(**options)
        except (TypeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(f"processor {self.kind}: its options are not usable ({reason})") from error

    def resized(self, pixels: Tensor) -> Tensor:
        """(3, H, W) values in 0..255 -> (3, h, w)."""
        own = self.processor
        if self.pads_to_square:
            side = max(pixels.shape[-2:])
            pixels = filled(pixels.float()[None], (side, side))
            return (own.resize(pixels, _sized(own.size)) if own.do_resize else pixels)[0]
        if not own.do_resize:
            return pixels
        how = {"size": _sized(own.size), "resample": own.resample}
        if self.kind in FLOATS:
            return own.resize(pixels.float()[None], **how, antialias=False)[0]
        takes = inspect.signature(own.resize).parameters
        how |= {name: value for name in SIZING if name in takes and (value := getattr(own, name, None)) is not None}
        return own.resize(pixels[None], **how)[0]

    @property
    def pads_to_square(self) -> bool:
        """Whether what is resized is the image in a square."""
        return self.kind in SQUARES and bool(self.processor.do_pad)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and std of values in 0..255."""
        own = self.processor
        gain = 1 / own.rescale_factor if own.do_rescale else 1.0
        if not own.do_normalize:
            return [0.0] * 3, [gain] * 3
        mean, std = (torch.tensor(values) * gain for values in (own.image_mean, own.image_std))  # rounded as there
        return mean.tolist(), std.tolist()

    @property
    def only_rescales(self) -> bool:
        """Whether values are multiplied by `rescale_factor`, and that is all."""
        return bool(self.processor.do_rescale and not self.processor.do_normalize)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) to which every image is resized; None where that depends on the image."""
        own = self.processor
        size = _sized(own.size) if own.do_resize and not getattr(own, "keep_aspect_ratio", False) else None
        return (size.height, size.width) if size is not None and size.height and size.width else None

    @property
    def filter(self) -> str | None:
        """By which images become `fixed_size`: Pillow's name of it, or "between" for the floats between pixels; None
        where they become it in another way."""
        from PIL import Image

        own, name = self.processor, Image.Resampling(int(self.processor.resample)).name.lower()
        if self.fixed_size is None or self.kind in SQUARES:
            return None
        steps = [getattr(own, option, None) or 1 for option in ("size_divisor", "ensure_multiple_of")]
        if any(side % step for side in self.fixed_size for step in steps):
            return None
        if self.kind in FLOATS:
            return "between" if name == "bilinear" else None
        return name

    @property
    def padded_size(self) -> tuple[int, int] | None:
        """To which every image is padded; None: to the largest of a batch."""
        own = self.processor
        if not getattr(own, "do_pad", False):
            return None
        size = own.size if self.kind in PADDED_TO_SIZE else getattr(own, "pad_size", None)
        if not size:
            return None
        size = _sized(size)
        shortest = size.shortest_edge
        return (size.height, size.width) if shortest is None else (shortest, size.longest_edge or shortest)

    @property
    def padding(self) -> tuple[float, ...] | None:
        """What padded pixels are after mean and std, where they are padded before; None for 0, and where none is."""
        if self.kind not in PADDED_TO_SIZE or self.fixed_size is not None:
            return None
        mean, std = self.pixel_statistics()
        return tuple(-middle / spread for middle, spread in zip(mean, std, strict=True))

    @property
    def side(self) -> int:
        """The shorter side of what it resizes to."""
        size = _sized(self.processor.size)
        sides = [size.shortest_edge, size.height, size.width, size.max_height, size.max_width]
        return int(min(side for side in sides if side))


def image_processor(stated: Mapping[str, Any]) -> ImageProcessor:
    """The processor of these options; one object for all that ask for the same."""
    return _built(stable_text(dict(stated)))


@lru_cache(maxsize=8)
def _built(text: str) -> ImageProcessor:
    import json

    return ImageProcessor(json.loads(text))


def _sized(size: Any):
    from transformers.image_utils import SizeDict

    return size if isinstance(size, SizeDict) else SizeDict(**dict(size))


def filled(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) padded with zeros to a size, right and below."""
    return torch.nn.functional.pad(pixels, (0, size[1] - pixels.shape[-1], 0, size[0] - pixels.shape[-2]))


def pixel_mask(pixels: Tensor, samples: Sequence[Any]) -> Tensor:
    """(B, H, W) long, 1 where an image is and 0 where it was padded; 1 everywhere without samples.

    Args:
        samples: of mmdet or mmseg, whose `img_shape` is the image's size.
    """
    mask = torch.zeros(len(pixels), *pixels.shape[-2:], dtype=torch.long, device=pixels.device)
    shapes = [sample.img_shape[:2] for sample in samples] or [pixels.shape[-2:]] * len(pixels)
    for row, (height, width) in enumerate(shapes):
        mask[row, :height, :width] = 1
    return mask

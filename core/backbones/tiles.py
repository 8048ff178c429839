"""Stored features of tiles as a backbone, `tiles:WIDTH,ENCODER`: what they are of is known, and nothing is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..contracts.bags import TEXTS
from ..contracts.families import TILES
from ..contracts.images import ImageSize
from ..errors import CapabilityError, ConfigError
from .stored import TowerlessBackbone
from .two_tower import fingerprint

SCALE = 100.0
"""CLIP's logit scale, for methods that weigh their own scores by it where there is no text."""


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> TileBackbone:
    """The backbone of features of some width.

    Raises:
        ConfigError: no width, or an image size.
    """
    width, *further = rest.split(",")
    if not width.isdigit() or not 0 < int(width) < 1 << 20 or len(further) > 2:
        raise ConfigError(f"backbone '{spec}': give the width of stored tile features, such as {TILES}:1024")
    if image_size not in (None, TileBackbone.image_size):
        raise ConfigError(
            f"image_size={image_size}: backbone '{spec}' reads stored features and sees no image; omit it"
        )
    encoder = next((word for word in further if word != TEXTS), "")
    return TileBackbone(int(width), encoder, TEXTS in further, spec, device)


class TileBackbone(TowerlessBackbone):
    """What stored tile features are as a backbone.

    Args:
        width: of the features.
        encoder: name of what made them, or "".
        texts: whether vectors of class texts come with them.
        spec: by which it is loaded again.
    """

    family = TILES
    image_size, image_mean, image_std, context_length = 1, (0.0,), (1.0,), 0

    def __init__(self, width: int, encoder: str, texts: bool, spec: str, device: torch.device):
        super().__init__(spec, device, SCALE)
        self.embed_dim, self.has_text = width, texts
        self.fingerprint = fingerprint(TILES, str(width), encoder, {})

    def need_texts(self, method: str = "") -> None:
        if not self.has_text:
            asked = f"{method} learns from class texts: " if method else ""
            raise CapabilityError(
                f"{asked}stored tile features come without; give --class-texts FILE, or --backbone, what made them"
            )

    def preprocess(self, train: bool = False) -> Callable[[Any], Tensor]:
        return _no_pixels

    def tokenize(self, texts: Sequence[str]) -> NoReturn:
        raise CapabilityError(f"backbone '{self.spec}': is stored features, and new words need a text tower")

    def token_mask(self, tokens: Tensor) -> NoReturn:
        self.tokenize(())

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> NoReturn:
        _no_pixels()

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> NoReturn:
        self.tokenize(())


def _no_pixels(*of: Any, **how: Any) -> NoReturn:
    raise CapabilityError("stored tile features hold no pixels, and this needs them; give the slides and a backbone")

"""An image tower that is told where to look: a fourth channel beside red, green and blue.

Alpha-CLIP: A CLIP Model Focusing on Wherever You Want, 2023, arXiv 2312.03818.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from .....core.backbones import read_checkpoint
from .....core.errors import CapabilityError, ConfigError, DataError
from .....registry import MODELS
from .clip_vision import CLIPVisionBackbone

ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
SQUARES = ("pad", "stretch")
PUBLISHED_ALPHA = "conv1_alpha.weight"


@MODELS.register_module()
class AlphaCLIPBackbone(BaseModule):
    """A backbone's image tower with a second convolution, for the alpha map, beside the one that reads colours.

    Both have the same shape but for their input channels, and their sum goes on. The second begins at zero: until it
    is trained, features are the backbone's own, whatever alpha is. Any tower does that reads colours by
    one convolution: the ViTs of open_clip and hf, CLIP's ResNets, the embedded backbone.

    Args:
        backbone: spec of the backbone.
        trainable: train the tower too, as published; the alpha convolution is always trained. The released training
            gives the tower 0.01 of the convolution's learning rate:
            `paramwise_cfg=dict(custom_keys={"image.tower": dict(lr_mult=0.01)})`.
        lora: options of `LowRank.add`, to train low-rank updates of the tower instead (published for the large models).
        square: how `encode_regions` brings an image to a square: "pad" with black, as published, or "stretch".
        region_batch: regions that go through the tower at once in `encode_regions`.
        checkpoint: file of weights as the authors release them (of the vision tower, OpenAI's names), to start from;
            for backbones of open_clip with the architecture they were trained for.

    Raises:
        CapabilityError: the tower has no such convolution.
        ConfigError: an option is out of range. DataError: the checkpoint does not fit.
    """

    def __init__(
        self,
        backbone: str,
        trainable: bool = True,
        lora: Mapping[str, Any] | None = None,
        square: str = "pad",
        region_batch: int = 32,
        checkpoint: str | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if square not in SQUARES:
            raise ConfigError(f"option square='{square}' is not usable; give one of {', '.join(SQUARES)}")
        if region_batch < 1:
            raise ConfigError(f"option region_batch={region_batch} is not usable; give 1 or more")
        self.square, self.region_batch = square, region_batch
        whole = trainable and lora is None
        frozen = not trainable and lora is None
        self.image = CLIPVisionBackbone(backbone, pyramid="taps", frozen=frozen, train_head=whole, lora=lora)
        self.alpha_conv = alpha_convolution(colour_convolution(self.image))
        if checkpoint is not None:
            self._load_published(Path(checkpoint))

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.image.backbone.embed_dim

    def forward(self, pixels: Tensor, alpha: Tensor | None = None) -> tuple[Tensor, ...]:
        """(B, 3, H, W), as `encode_image` -> maps (B, W_i, h_i, w_i) from shallow to deep."""
        with self._looking_at(alpha, pixels):
            return self.image(pixels)

    def encode_image(self, pixels: Tensor, alpha: Tensor | None = None, normalize: bool = True) -> Tensor:
        """Features of images seen with an eye on a part of each.

        Args:
            pixels: (B, 3, H, W), normalised as the backbone wants them.
            alpha: (B, H, W) or (B, 1, H, W) in 0..1, 1 where to look; None looks everywhere. It is normalised here.

        Returns:
            (B, D) float32.

        Raises:
            ConfigError: alpha is of another shape.
        """
        with self._looking_at(alpha, pixels):
            return self.image.backbone.encode_image(pixels, normalize)

    def encode_regions(self, pixels: Tensor, masks: Tensor) -> Tensor:
        """Features of the regions of one image: it is seen once per region, whole.

        Args:
            pixels: (3, H, W), normalised as the backbone wants them.
            masks: (N, H, W) in 0..1 or bool; `box_masks` makes them of boxes.

        Returns:
            (N, D) unit rows.
        """
        if not len(masks):
            return pixels.new_zeros(0, self.embed_dim, dtype=torch.float32)
        size, black = self.image.backbone.image_size, self._black(pixels)
        seen = to_square(pixels, size, self.square, black, "bicubic")  # (3, S, S)
        alpha = to_square(masks.to(pixels), size, self.square, None, "bilinear").clamp(0, 1)  # (N, S, S)
        parts = alpha.split(self.region_batch)
        return torch.cat([self.encode_image(seen.expand(len(part), -1, -1, -1), part) for part in parts])

    def classify_regions(
        self, pixels: Tensor, texts: Tensor, *, masks: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """Logits of the regions of one image over classes.

        Args:
            pixels: (3, H, W).
            texts: (C, D) unit embeddings of the classes.
            masks: (N, H, W); boxes: (N, 4) as x1, y1, x2, y2 in pixels. Exactly one of the two.

        Returns:
            (N, C): cosines times the backbone's logit scale.
        """
        if (masks is None) == (boxes is None):
            raise ConfigError("classify_regions takes masks or boxes; give one of them")
        if masks is None:
            masks = box_masks(boxes, tuple(pixels.shape[-2:]))
        features = self.encode_regions(pixels, masks)
        return self.image.backbone.logit_scale.detach().to(features.device) * features @ texts.to(features).T

    @contextmanager
    def _looking_at(self, alpha: Tensor | None, pixels: Tensor) -> Iterator[None]:
        added = self.alpha_conv(self._normalised(alpha, pixels))
        handle = colour_convolution(self.image).register_forward_hook(partial(_add, added))
        try:
            yield
        finally:
            handle.remove()

    def _normalised(self, alpha: Tensor | None, pixels: Tensor) -> Tensor:
        """(B, 1, H, W)."""
        weight = self.alpha_conv.weight
        if alpha is None:
            alpha = torch.ones_like(pixels[:, :1])
        alpha = alpha[:, None] if alpha.dim() == 3 else alpha
        if alpha.shape != (len(pixels), 1, *pixels.shape[-2:]):
            raise ConfigError(f"alpha of shape {tuple(alpha.shape)} does not fit pixels of {tuple(pixels.shape)}")
        return (alpha.to(device=weight.device, dtype=weight.dtype) - ALPHA_MEAN) / ALPHA_STD

    def _black(self, pixels: Tensor) -> Tensor:
        backbone = self.image.backbone
        return -pixels.new_tensor(backbone.image_mean) / pixels.new_tensor(backbone.image_std)

    def _load_published(self, path: Path) -> None:
        visual = dict(self.image.tower.items()).get("visual")
        state = {
            name.replace(".attn.in_proj.", ".attn.in_proj_"): value for name, value in read_checkpoint(path).items()
        }
        alpha = state.pop(PUBLISHED_ALPHA, None)
        fits = visual is not None and alpha is not None and alpha.shape == self.alpha_conv.weight.shape
        expected = visual.state_dict() if fits else {}
        if not fits or {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in expected.items()}:
            raise DataError(
                f"{path}: not the vision tower of an Alpha-CLIP of this architecture; give a released checkpoint and "
                "the open_clip backbone it belongs to"
            )
        visual.load_state_dict(state)
        self.alpha_conv.weight.data.copy_(alpha)


def _add(added: Tensor, module: nn.Module, args: tuple, out: Tensor) -> Tensor:
    return out + added


def colour_convolution(tower: nn.Module) -> nn.Conv2d:
    """The one convolution of an image tower that takes red, green and blue.

    Raises:
        CapabilityError: there is none, or there are several.
    """
    convolutions = [part for part in tower.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3]
    if len(convolutions) != 1:
        raise CapabilityError(
            f"this image tower reads colours by {len(convolutions)} convolutions, not by one; "
            "take a ViT of open_clip or hf, a ResNet of CLIP or 'embedded'"
        )
    return convolutions[0]


def alpha_convolution(colours: nn.Conv2d) -> nn.Conv2d:
    """Its like for one channel, without bias, all zero and trained. It keeps the class, which knows how to pad."""
    twin = copy.deepcopy(colours)
    twin.in_channels, twin.bias = 1, None
    twin.weight = nn.Parameter(torch.zeros_like(colours.weight[:, :1]))
    return twin


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) boxes x1, y1, x2, y2 in pixels -> (N, H, W): the share of each pixel that lies in the box."""
    height, width = size
    across = _overlap(boxes[:, 0], boxes[:, 2], width)  # (N, W)
    down = _overlap(boxes[:, 1], boxes[:, 3], height)  # (N, H)
    return down[:, :, None] * across[:, None, :]


def _overlap(low: Tensor, high: Tensor, length: int) -> Tensor:
    start = torch.arange(length, device=low.device, dtype=low.dtype)
    return (torch.minimum(start + 1, high[:, None]) - torch.maximum(start, low[:, None])).clamp(0, 1)


def to_square(picture: Tensor, size: int, square: str, fill: Tensor | None, mode: str) -> Tensor:
    """(C, H, W) -> (C, size, size). "pad" keeps the ratio, the picture in the middle, `fill` (C,) or 0 around it."""
    if square == "pad":
        picture = _padded(picture, fill)
    if picture.shape[-2:] == (size, size):
        return picture
    scaled = F.interpolate(picture[None].float(), size=(size, size), mode=mode, antialias=True, align_corners=False)
    return scaled[0].to(picture)


def _padded(picture: Tensor, fill: Tensor | None) -> Tensor:
    channels, height, width = picture.shape
    side = max(height, width)
    if height == width:
        return picture
    top, left = (side - height) // 2, (side - width) // 2
    canvas = picture.new_zeros(channels, side, side)
    if fill is not None:
        canvas += fill.to(picture)[:, None, None]
    canvas[:, top : top + height, left : left + width] = picture
    return canvas

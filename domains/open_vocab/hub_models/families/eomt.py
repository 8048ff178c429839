"""Your ViT is Secretly an Image Segmentation Model (EoMT), 2025, arXiv 2503.19108."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..family import Rates
from ..mask_queries import MaskQueries
from ..pixel_logits import enlarged_logits

FIRST_START, LAST_START, LENGTH, POWER = 1 / 6, 4 / 6, 1 / 6, 0.9
"""When the first and the last block begin to lose their masks, how long that takes, as shares of the training, and the
power of the decline."""


class Model(MaskQueries):
    """A plain vision transformer whose last blocks take queries among the patches.

    Fine-tuned as published: AdamW at 1e-4 with decay 0.05, the rate times 0.8 from block to block downwards, gradients
    clipped at 0.01, losses of all blocks with queries. In training, queries attend within their masks of the block
    before; these masks are given up block by block (`annealed`), so that a trained model needs none. The authors warm
    up the backbone after the rest; here both are warmed up together.
    """

    model_class = "EomtForUniversalSegmentation"
    processors = ("EomtImageProcessor",)
    best_only = cut_at_image = True
    hooks = ({"type": "vladapt.MaskAnnealing"},)

    @property
    def rates(self) -> Rates:  # type: ignore[override]
        blocks = int(self.stated.num_hidden_layers)
        parts = {f"layers.{block}.": {"lr_mult": 0.8 ** (blocks - 1 - block)} for block in range(blocks)}
        parts["embeddings."] = {"lr_mult": 0.8 ** (blocks - 1)}
        return Rates(lr=1e-4, weight_decay=0.05, parts=parts, clip=0.01)

    @property
    def raster(self):
        return self.sides

    @property
    def sides(self) -> tuple[int, int]:
        """Of the only images that the model takes."""
        size = self.stated.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def inputs(self, pixels, pixel_mask, prompt=None):
        if self.padding is not None:
            blank = pixels.new_tensor(self.padding)[:, None, None]
            pixels = torch.where(pixel_mask[:, None] > 0, pixels, blank)
        return {"pixel_values": pixels}

    def at_size(self, logits, size):
        """Without what was padded to the right and below, and at the image's size, before masks are cut. A processor
        that gives every image the same sides pads none."""
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = logits.shape[-2:] if self.padding is None else get_size_with_aspect_ratio(size, *self.sides)
        return enlarged_logits(logits[None, :, :height, :width], size)[0]

    def scores(self, model, pixels):
        """An image that is larger than the model's is seen by windows along its longer side, which overlap as little as
        they can, and whose scores are averaged; a smaller one is padded for the model."""
        side, longer = min(self.sides), 3 if pixels.shape[3] >= pixels.shape[2] else 2
        if pixels.shape[longer] <= side:
            height, width = pixels.shape[2:]
            margins = (0, self.sides[1] - width, 0, self.sides[0] - height)
            there = F.pad(torch.ones_like(pixels[:, 0]), margins)
            return self.of_classes(model(**self.inputs(F.pad(pixels, margins), there)))[..., :height, :width]
        total = pixels.new_zeros(len(pixels), self.classes, *pixels.shape[2:])
        times = torch.zeros_like(total)
        for start in window_starts(pixels.shape[longer], side):
            place = (..., slice(start, start + side), slice(None)) if longer == 2 else (..., slice(start, start + side))
            total[place] += super().scores(model, pixels[place])
            times[place] += 1
        return total / times

    def annealed(self, model: nn.Module, progress: float) -> None:
        """Set the share of queries that keep to their masks in each block, in place.

        Args:
            progress: of the training, 0 to 1.
        """
        model.attn_mask_probs.copy_(mask_shares(len(model.attn_mask_probs), progress))


def window_starts(length: int, side: int) -> list[int]:
    """Where windows begin that cover a length."""
    windows = math.ceil(length / side)
    overlap = (windows * side - length) / max(windows - 1, 1)
    return [int(number * (side - overlap)) for number in range(windows)]


def mask_shares(blocks: int, progress: float) -> Tensor:
    """(blocks,) 1 before a block's time, 0 after it, and between these (1 - t) ** 0.9."""
    starts = torch.linspace(FIRST_START, LAST_START, blocks)
    return (1 - (progress - starts) / LENGTH).clamp(0, 1).pow(POWER)

"""RF-DETR: Neural Architecture Search for Real-Time Detection Transformers, 2025, arXiv 2511.09554."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..family import BOXES, MASKS, Rates
from ..weighing import weighed
from .lw_detr import Model as LwDetr

AT_ONCE = 32
"""Masks that are enlarged together."""


class Model(LwDetr):
    """LW-DETR on DINOv2, whose checkpoints give boxes, or boxes and masks.

    Fine-tuned at 1e-4 and the encoder at 1.5e-4, weight decay 1e-4, gradients clipped at 0.1, averaged weights (0.993).
    The authors lower the rate layer by layer in the encoder (0.8) and from part to part (0.7), and train at several
    sizes; here neither.
    """

    processors = ("RfDetrImageProcessor",)
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 1.5}}, ema=0.993)
    segments = "RfDetrForInstanceSegmentation"

    def __init__(self, config: dict[str, Any], classes: int):
        super().__init__(config, classes)
        outlines = self.segments in (config.get("architectures") or ())
        self.gives = MASKS if outlines else BOXES
        self.model_class = self.segments if outlines else "RfDetrForObjectDetection"
        self.head = tuple(rf"(model\.)?{pattern}" for pattern in LwDetr.head)

    def weighted(self, outputs):
        """And those of masks; without an object in a batch transformers gives an empty tensor for these, whose mean is
        no number: here they are zero."""
        parts = super().weighted(outputs)
        if self.gives == MASKS:
            config = self.stated
            of_masks = {
                "loss_mask_ce": config.mask_class_loss_coefficient,
                "loss_mask_dice": config.mask_dice_loss_coefficient,
            }
            parts |= weighed(outputs.loss_dict, of_masks)
        return {name: part if part.numel() else outputs.pred_masks.sum() * 0 for name, part in parts.items()}

    def masks(self, outputs, image: int, queries: Tensor, size: tuple[int, int]) -> Tensor:
        """Where the enlarged logits of a query are above zero."""
        logits = outputs.pred_masks[image].float()
        enlarged = [
            F.interpolate(logits[some, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0
            for some in queries.split(AT_ONCE)
        ]
        return torch.cat(enlarged) if enlarged else logits.new_zeros((0, *size), dtype=torch.bool)

"""Unified Perceptual Parsing for Scene Understanding (UPerNet), 2018, arXiv 1807.10221."""

from __future__ import annotations

from typing import ClassVar

from ..family import Rates
from ..pixel_logits import PixelLogits


class Model(PixelLogits):
    """A pyramid over a backbone's levels, pooled at four scales, and an auxiliary head on the third level.

    Fine-tuned as Swin's authors do (arXiv 2103.14030): AdamW at 6e-5, norms and tables of positions without
    decay, 1,500 steps of warm-up. ConvNeXt's authors decay the rate from layer to layer; that is not done here.
    """

    model_class = "UperNetForSemanticSegmentation"
    processors = ("SegformerImageProcessor",)
    heads: ClassVar = {"decode_head": None, "auxiliary_head": "auxiliary_loss_weight"}
    head = (r"(decode|auxiliary)_head\.classifier\.(weight|bias)",)
    rates = Rates(
        lr=6e-5,
        weight_decay=0.01,
        parts={"relative_position_bias_table": {"decay_mult": 0.0}},
        norm_decay=0.0,
        clip=None,
    )

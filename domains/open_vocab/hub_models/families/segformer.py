"""SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, 2021, arXiv 2105.15203."""

from __future__ import annotations

from typing import ClassVar

from ..family import Rates
from ..pixel_logits import PixelLogits


class Model(PixelLogits):
    """A hierarchical transformer, and a head of linear layers on its four levels.

    Fine-tuned as published: AdamW at 6e-5, the head at ten times that, norms without decay, 1,500 steps of warm-up.
    """

    model_class = "SegformerForSemanticSegmentation"
    processors = ("SegformerImageProcessor",)
    heads: ClassVar = {"decode_head": None}
    any_size = True
    head = (r"decode_head\.classifier\.(weight|bias)",)
    rates = Rates(lr=6e-5, weight_decay=0.01, parts={"decode_head": {"lr_mult": 10.0}}, norm_decay=0.0, clip=None)

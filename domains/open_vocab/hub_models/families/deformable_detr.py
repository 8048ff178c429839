"""Deformable DETR: Deformable Transformers for End-to-End Object Detection, 2020, arXiv 2010.04159."""

from __future__ import annotations

from ..boxes import BoxRanking
from ..family import Rates
from .detr import Model as Detr

MOST = 100
"""Boxes per image, as the authors and the processor keep them."""


class Model(Detr):
    """Attention to a few sampled places of several levels, and a sigmoid per class.

    Fine-tuned as published: AdamW at 2e-4, the backbone, the sampling offsets and the reference points at a tenth,
    weight decay 1e-4, gradients clipped at 0.1.
    """

    model_class = "DeformableDetrForObjectDetection"
    processors = ("DeformableDetrImageProcessor",)
    head = (r"(model\.decoder\.)?class_embed\.\d+\.(weight|bias)",)
    per_box = ("loss_ce", "loss_bbox", "loss_giou")
    ranking = BoxRanking(most=MOST)
    rates = Rates(
        lr=2e-4,
        parts={name: {"lr_mult": 0.1} for name in ("backbone", "reference_points", "sampling_offsets")},
    )

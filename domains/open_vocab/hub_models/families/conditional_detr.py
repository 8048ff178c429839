"""Conditional DETR for Fast Training Convergence, 2021, arXiv 2108.06152."""

from __future__ import annotations

from ..family import Rates
from .deformable_detr import Model as DeformableDetr


class Model(DeformableDetr):
    """DETR whose cross-attention looks by a query of its own for places, and a sigmoid per class.

    Fine-tuned as published: AdamW at 1e-4, the backbone at a tenth, weight decay 1e-4, gradients clipped at 0.1. The
    weight of the classes' loss is 1, as in transformers; the authors take 2.
    """

    model_class = "ConditionalDetrForObjectDetection"
    processors = ("ConditionalDetrImageProcessor",)
    head = (r"class_labels_classifier\.(weight|bias)",)
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 0.1}})

"""Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection, 2023, arXiv 2303.05499."""

from __future__ import annotations

from ..family import Rates
from ..grounding import GroundingFamily


class Model(GroundingFamily):
    """Fine-tuned as by mmdet, for want of the authors' own: AdamW at 1e-4, both towers at a tenth, gradients clipped at
    0.1. Losses of all decoder layers, which the configurations of the hub leave out."""

    model_class = "GroundingDinoForObjectDetection"
    processors = ("GroundingDinoImageProcessor",)
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 0.1}})

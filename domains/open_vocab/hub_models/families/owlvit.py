"""Simple Open-Vocabulary Object Detection with Vision Transformers (OWL-ViT), 2022, arXiv 2205.06230."""

from __future__ import annotations

from ..family import Rates
from ..owl import OWLFamily


class Model(OWLFamily):
    """Images are squashed to a square, as its processor does.

    Rates as published: 5e-5, the text tower at 2e-6, without weight decay, gradients clipped at 1.
    """

    model_class = "OwlViTForObjectDetection"
    processors = ("OwlViTImageProcessor",)
    tower = "owlvit"
    rates = Rates(lr=5e-5, weight_decay=0.0, parts={"text": {"lr_mult": 0.04}}, clip=1.0)

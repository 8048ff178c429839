"""Scaling Open-Vocabulary Object Detection (OWLv2), 2023, arXiv 2306.09683."""

from __future__ import annotations

from ..family import Rates
from ..owl import OWLFamily


class Model(OWLFamily):
    """Images are padded to a square, and boxes are shares of it.

    Rates of OWL-ViT's fine-tuning: 5e-5, the text tower at 2e-6, without weight decay, gradients clipped at 1.
    """

    model_class = "Owlv2ForObjectDetection"
    processors = ("Owlv2ImageProcessor",)
    tower = "owlv2"
    rates = Rates(lr=5e-5, weight_decay=0.0, parts={"text": {"lr_mult": 0.04}}, clip=1.0)

    def pixels_of_boxes(self, size):
        return max(size), max(size)

"""YOLOS: You Only Look at One Sequence, 2021, arXiv 2106.00666."""

from __future__ import annotations

from ..family import Rates
from .detr import Model as Detr


class Model(Detr):
    """A vision transformer with tokens for boxes, and DETR's losses of its last layer alone, as published.

    Fine-tuned as published: AdamW at 2.5e-5 throughout, weight decay 1e-4, gradients clipped at 0.1.
    """

    model_class = "YolosForObjectDetection"
    processors = ("YolosImageProcessor",)
    head = (r"class_labels_classifier\.layers\.2\.(weight|bias)",)
    rates = Rates(lr=2.5e-5)

    def settings(self):
        """There is no decoder whose layers could have losses."""
        return {}

    def inputs(self, pixels, pixel_mask, prompt=None):
        """It takes no mask of the padding."""
        return {"pixel_values": pixels}

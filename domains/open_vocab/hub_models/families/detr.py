"""DETR: End-to-End Object Detection with Transformers, 2020, arXiv 2005.12872."""

from __future__ import annotations

from typing import ClassVar

from ..boxes import BoxRanking
from ..family import Family, Rates
from ..weighing import of_detr, weighed


class Model(Family):
    """A convolutional backbone, a transformer, and a softmax per query with a class of no object, the last.

    Fine-tuned as published: AdamW at 1e-4, the backbone at a tenth, weight decay 1e-4, gradients clipped at 0.1. The
    classes' loss is a weighted mean over queries, so with several processes it is the mean of theirs, as published.
    """

    model_class = "DetrForObjectDetection"
    processors = ("DetrImageProcessor",)
    head = (r"class_labels_classifier\.(weight|bias)",)
    per_box: ClassVar[tuple[str, ...]] = ("loss_bbox", "loss_giou")
    ranking = BoxRanking(per_query=True)
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 0.1}})

    def weighted(self, outputs):
        """With the weights of the configuration; the error in the number of boxes is none of the loss."""
        return weighed(outputs.loss_dict, of_detr(self.stated))

"""DEIMv2: Real-Time Object Detection Meets DINOv3, 2025, arXiv 2509.20787."""

from __future__ import annotations

from ..family import Rates
from .d_fine import Model as DFine


class Model(DFine):
    """D-FINE with DINOv3 or HGNetv2 in front, dense one-to-one matching and the matching-aware loss.

    With several processes the losses of boxes, whose matches are those of all layers together, are divided by the mean
    number of boxes as the others are; the authors count these matches themselves.
    """

    model_class = "Deimv2ForObjectDetection"
    per_box = ("loss_mal", "loss_bbox", "loss_giou", "loss_fgl")
    rates = Rates(
        lr=5e-4,
        weight_decay=1.25e-4,
        parts={"conv_encoder": {"lr_mult": 0.05}},
        norm_decay=0.0,
        ema=0.9999,
    )

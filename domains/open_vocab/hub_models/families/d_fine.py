"""D-FINE: Redefine Regression Task in DETRs as Fine-grained Distribution Refinement, 2024, arXiv 2410.13842."""

from __future__ import annotations

from ..family import Rates
from .rt_detr_v2 import Model as RTDetrV2


class Model(RTDetrV2):
    """RT-DETR whose sides of boxes are distributions that each layer refines, the last one teaching the others.

    Fine-tuned as the published large model: AdamW at 2.5e-4, the backbone at a twentieth, weight decay 1.25e-4, none on
    norms, gradients clipped at 0.1, averaged weights (0.9999). The authors' step from uniform to fixed image sizes near
    the end is left out. The distillation loss (loss_ddf) is a mean over queries, not over boxes, so with several
    processes it is the mean of theirs, as in the authors' code.
    """

    model_class = "DFineForObjectDetection"
    per_box = ("loss_vfl", "loss_bbox", "loss_giou", "loss_fgl")
    rates = Rates(
        lr=2.5e-4,
        weight_decay=1.25e-4,
        parts={"backbone": {"lr_mult": 0.05}},
        norm_decay=0.0,
        ema=0.9999,
    )

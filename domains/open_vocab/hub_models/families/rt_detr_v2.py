"""RT-DETRv2: Improved Baseline with Bag-of-Freebies for Real-Time Detection Transformer, 2024, arXiv 2407.17140."""

from __future__ import annotations

from typing import ClassVar

from ..boxes import BoxRanking
from ..family import Family, Rates


class Model(Family):
    """A hybrid encoder over three levels, and a decoder whose queries begin at the encoder's best places.

    Fine-tuned as published: AdamW at 1e-4, the backbone at a tenth, norms without decay, gradients clipped at 0.1,
    averaged weights, contrastive denoising queries, the backbone's batch norms frozen. The authors' average is of
    0.9999 after 2,000 steps; here it follows the weights closely at first, and slows to 0.9999 over some thousands.
    """

    model_class = "RTDetrV2ForObjectDetection"
    processors = ("RTDetrImageProcessor",)
    head = (
        r"class_embed\.\d+\.(weight|bias)",
        r"model\.decoder\.class_embed\.\d+\.(weight|bias)",
        r"model\.enc_score_head\.(weight|bias)",
        r"model\.denoising_class_embed\.weight",
    )
    per_box: ClassVar[tuple[str, ...]] = ("loss_vfl", "loss_bbox", "loss_giou")
    ranking = BoxRanking()
    rates = Rates(lr=1e-4, parts={"backbone": {"lr_mult": 0.1}}, norm_decay=0.0, ema=0.9999)

"""Vision Transformers for Dense Prediction (DPT), 2021, arXiv 2103.13413."""

from __future__ import annotations

from typing import ClassVar

from ..family import Rates
from ..pixel_logits import PixelLogits


class Model(PixelLogits):
    """Tokens of four layers of a vision transformer, reassembled as images and fused from coarse to fine.

    The authors train by SGD for 240 epochs; here AdamW at 1e-4 fine-tunes it, the transformer at a tenth.
    """

    model_class = "DPTForSemanticSegmentation"
    processors = ("DPTImageProcessor",)
    heads: ClassVar = {"head": None, "auxiliary_head": "auxiliary_loss_weight"}
    head = (r"(head|auxiliary_head)\.head\.4\.(weight|bias)",)
    idle = ("dpt.layernorm", "neck.fusion_stage.layers.0.residual_layer1")
    rates = Rates(lr=1e-4, weight_decay=0.01, parts={"dpt": {"lr_mult": 0.1}}, norm_decay=0.0, clip=1.0)

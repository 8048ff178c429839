"""The auxiliary head of DenseCLIP: score maps are logits as they are (Rao et al., 2021, arXiv 2112.01518)."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from .....registry import MODELS

CROSS_ENTROPY = {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 0.4}


@MODELS.register_module()
class IdentityHead(BaseDecodeHead):
    """A decode head without parameters. As published its cross-entropy has weight 0.4.

    Args:
        num_classes: channels of what comes in.
        loss_decode, options: as of every decode head.
    """

    def __init__(self, num_classes: int, loss_decode: dict | list | None = None, **options: Any):
        super().__init__(
            in_channels=num_classes,
            channels=num_classes,
            num_classes=num_classes,
            loss_decode=loss_decode or CROSS_ENTROPY,
            **{"dropout_ratio": 0, "init_cfg": None, **options},
        )
        self.conv_seg = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, h, w), unchanged."""
        return inputs

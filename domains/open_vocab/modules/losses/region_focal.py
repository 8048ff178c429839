"""The classification loss of RegionCLIP's transfer to detection (2021, arXiv 2112.09106)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .....core.contracts.adapter import require
from .....registry import MODELS

SMALLEST = 1e-30  # below it (1 - p) ** gamma has no finite slope; the loss of such a region is 0


@MODELS.register_module()
class FocalScaledCrossEntropy(nn.Module):
    """Cross-entropy of each region times (1 - p) ** gamma, p the probability of its class; background weighed down.

    Base classes with many boxes are soon certain, and a certain region says little: so names that are never trained
    are forgotten less. The mean is over all regions, whatever their weights.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        background_weight: of regions of the background, the last class; 0 or more.
        loss_weight: of the whole.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, gamma: float = 0.5, background_weight: float = 0.2, loss_weight: float = 1.0):
        super().__init__()
        for name, value in {"gamma": gamma, "background_weight": background_weight}.items():
            require(value >= 0, name, value, "give 0 or more")
        self.gamma, self.background_weight, self.loss_weight = gamma, background_weight, loss_weight

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **_,
    ) -> Tensor:
        """A scalar, or (N,) with `reduction_override="none"`.

        Args:
            cls_score: (N, C + 1) logits, the background last.
            label: (N,) class indices, C for the background.
            weight: (N,) of regions, or None.
            avg_factor: what the sum is divided by; N where it is not given.
        """
        logs = cls_score.float().log_softmax(dim=1)
        own = logs.gather(1, label[:, None])[:, 0]  # (N,)
        missing = (-torch.expm1(own)).clamp(min=SMALLEST)  # 1 - p
        loss = -own * missing**self.gamma if self.gamma else -own
        is_background = label == cls_score.shape[1] - 1
        loss = loss * torch.where(is_background, self.background_weight, 1.0)
        if weight is not None:
            loss = loss * weight
        loss = self.loss_weight * loss
        if reduction_override == "none":
            return loss
        if reduction_override == "sum":
            return loss.sum()
        return loss.sum() / (max(len(loss), 1) if avg_factor is None else avg_factor)

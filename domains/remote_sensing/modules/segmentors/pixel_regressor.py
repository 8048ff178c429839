"""A number for each pixel: an encoder and a head of mmsegmentation with one output channel, and a loss of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from .....registry import MODELS
from ...pixel_training import over_processes

DIVISOR = 32
"""Of the sides of what an encoder sees; images are filled up to it on the right and below."""
LOSSES = {"mse": F.mse_loss, "huber": F.huber_loss, "l1": F.l1_loss}
WIDEST = 6.0
"""Of the logarithm of a predicted error, to either side."""


@MODELS.register_module()
class PixelRegressor(BaseModel):
    """Targets are learned in standard deviations of the training targets around their mean; what comes out is in the
    unit of the targets. Pixels without a number count for nothing, in the loss too.

    Args:
        backbone, neck, decode_head: configs; the head gives one channel, or two with `scaled`.
        mean, std: C of each channel of images in 0..1.
        target_mean, target_std: of the training targets.
        loss: "mse", "huber" (of one standard deviation) or "l1".
        scaled: also learn how large the error of each pixel is: the second channel is the logarithm of the scale of a
            Laplace distribution of it, learned by its likelihood with the error itself held fixed.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        decode_head: Mapping[str, Any],
        neck: Mapping[str, Any] | None = None,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        target_mean: float,
        target_std: float,
        loss: str = "mse",
        scaled: bool = False,
    ):
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        self.neck = None if neck is None else MODELS.build(dict(neck))
        self.decode_head = MODELS.build(dict(decode_head))
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.target_mean, self.target_std, self.loss, self.scaled = target_mean, target_std, LOSSES[loss], scaled

    def forward(self, inputs: Tensor, target: Tensor | None = None, valid: Tensor | None = None, mode: str = "tensor"):
        """(B, H, W) numbers and (B, H, W) scales of their error, 1 where none is learned; in training {"loss"}.

        Args:
            inputs: (B, C, H, W) in 0..1.
            target: (B, H, W) numbers, any where there is none.
            valid: (B, H, W) bool, where there is one.
        """
        out = self.maps(inputs)  # (B, 1 or 2, H, W)
        if mode != "loss":
            scale = out[:, 1].clamp(-WIDEST, WIDEST).exp() if self.scaled else torch.ones_like(out[:, 0])
            return out[:, 0] * self.target_std + self.target_mean, scale * self.target_std
        assert target is not None and valid is not None
        truth = (target - self.target_mean) / self.target_std
        truth = torch.where(valid, truth, out[:, 0].detach())
        losses = {"loss": valid_mean(self.loss(out[:, 0], truth, reduction="none"), valid)}
        if self.scaled:
            error, log_scale = (out[:, 0].detach() - truth).abs(), out[:, 1].clamp(-WIDEST, WIDEST)
            losses["loss_scale"] = valid_mean(error * (-log_scale).exp() + log_scale, valid)
        return losses

    def maps(self, inputs: Tensor) -> Tensor:
        """(B, K, H, W): what the head gives, at the size of the images."""
        height, width = inputs.shape[-2:]
        filled = F.pad((inputs - self.mean) / self.std, (0, -width % DIVISOR, 0, -height % DIVISOR))
        features = self.backbone(filled)
        features = features if self.neck is None else self.neck(features)
        out = self.decode_head(features).float()
        return F.interpolate(out, size=filled.shape[-2:], mode="bilinear", align_corners=False)[..., :height, :width]


def valid_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean over pixels of the batch of all processes that count, 0 where none does."""
    total, count = over_processes(torch.stack([(values * valid).sum(), valid.sum().to(values.dtype)]))
    return total / count.clamp(min=1)

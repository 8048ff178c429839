"""A siamese model of change: one encoder for both dates, their maps compared, a head that says where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from .....registry import MODELS
from ...changes.target import CHANGED, IGNORED
from ...pixel_training import over_processes

GROUPS = 8
"""Of group norms in the head."""
SMOOTH = 1.0


@MODELS.register_module()
class ChangeSegmentor(BaseModel):
    """Difference and concatenation of both dates' maps, level by level, and a head on them.

    "Fully Convolutional Siamese Networks for Change Detection", 2018, arXiv 1810.08462, has one encoder with shared
    weights, whose maps of both dates are concatenated (FC-Siam-conc) or subtracted (FC-Siam-diff) before they are
    decoded. Here a level's maps a and b become conv([|a - b|, a, b]). The loss is cross-entropy, with a weight for the
    rare change, and soft Dice of change ("V-Net", 2016, arXiv 1606.04797); pixels of 255 count for nothing.

    Args:
        encoder: config of a registered backbone, pixels (B, C, H, W) -> maps from fine to coarse.
        in_channels: of its maps.
        mean, std: of each channel, of pixels in 0..1.
        channels: of the compared maps.
        neck, decode_head: configs of mmsegmentation's parts, whose head has two classes; without one a head adds the
            compared maps at the finest resolution.
        change_weight: of changed pixels in the cross-entropy.
        dice: weight of the Dice loss; 0 for none.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        in_channels: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        channels: int = 64,
        neck: Mapping[str, Any] | None = None,
        decode_head: Mapping[str, Any] | None = None,
        change_weight: float = 1.0,
        dice: float = 1.0,
        **options: Any,
    ):
        super().__init__(**options)
        self.encoder = MODELS.build(dict(encoder))
        self.compared = nn.ModuleList(nn.Conv2d(3 * width, channels, 1) for width in in_channels)
        self.neck = None if neck is None else MODELS.build(dict(neck))
        self.decode_head = _Summed(channels) if decode_head is None else MODELS.build(dict(decode_head))
        self.dice = dice
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.register_buffer("weights", torch.tensor([1.0, change_weight]), persistent=False)

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        """Scores (B, 2, H, W) of no change and change, or in training {"loss_ce", "loss_dice"}.

        Args:
            inputs: (B, 2, C, H, W) both dates, in 0..1.
            labels: (B, H, W) 0, 1, and 255 for ignored pixels.
        """
        size = inputs.shape[-2:]
        maps = self.encoder((inputs.flatten(0, 1) - self.mean) / self.std)  # (2 B, C_i, h_i, w_i)
        compared = []
        for level, conv in zip(maps, self.compared, strict=True):
            before, after = level.unflatten(0, (-1, 2)).unbind(dim=1)
            compared.append(conv(torch.cat([(before - after).abs(), before, after], dim=1)))
        compared = compared if self.neck is None else list(self.neck(compared))
        scores = F.interpolate(self.decode_head(compared).float(), size, mode="bilinear", align_corners=False)
        if mode != "loss":
            return scores
        assert labels is not None
        loss = {"loss_ce": weighted_cross_entropy(scores, labels, self.weights)}
        if self.dice:
            loss["loss_dice"] = self.dice * change_dice(scores, labels)
        return loss

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """(B, H, W) of change."""
        return self(inputs).softmax(dim=1)[:, CHANGED]


def weighted_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean over pixels of the batch of all processes that are not ignored; 0 without any.

    Args:
        scores: (B, 2, H, W).
        labels: (B, H, W).
        weights: (2,) of no change and change.
    """
    each = F.cross_entropy(scores, labels.long(), weights, ignore_index=IGNORED, reduction="sum")
    weight = weights[labels.clamp(max=CHANGED).long()] * (labels != IGNORED)
    summed, weighed = over_processes(torch.stack([each, weight.sum()]))
    return summed / weighed.clamp(min=SMOOTH)


def change_dice(scores: Tensor, labels: Tensor) -> Tensor:
    """1 less the soft Dice of change over all pixels of the batch of all processes that are not ignored.

    Args:
        scores: (B, 2, H, W).
        labels: (B, H, W).
    """
    there = labels != IGNORED
    share, truth = scores.softmax(dim=1)[:, CHANGED] * there, (labels == CHANGED) & there
    shared, either = over_processes(torch.stack([(share * truth).sum(), share.sum() + truth.sum()]))
    return 1 - (2 * shared + SMOOTH) / (either + SMOOTH)


class _Summed(nn.Module):
    """The light head: compared maps added at the finest resolution, and two convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        groups = GROUPS if channels % GROUPS == 0 and channels > GROUPS else 1
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        summed = sum(F.interpolate(level, size, mode="bilinear", align_corners=False) for level in maps[1:]) + maps[0]
        return self.layers(summed)

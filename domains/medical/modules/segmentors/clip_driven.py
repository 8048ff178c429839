"""A network of volumes whose head is steered by the texts of structures' names, learned from sets that outline
different structures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from .....core.backbones import load_backbone
from .....registry import MODELS
from .volume_segmentor import over_views

WIDTH = 8
"""Channels of the maps that the steered layers see."""
SHAPES = ((WIDTH, WIDTH), (WIDTH, WIDTH), (1, WIDTH))
"""Of the weights of the steered layers."""
PARAMETERS = sum(rows * columns for rows, columns in SHAPES) + sum(rows for rows, _ in SHAPES)
GROUPS = 16


class TextDrivenHead(nn.Module):
    """Scores of structures by layers whose weights follow from the volume and from a text of each.

    A controller turns the pooled deepest map, next to the text of a structure, into the weights of three convolutions
    of
    one voxel, which see the last map of the decoder: first all weights, then all biases.

    Args:
        deep, fine: channels of the deepest map of the encoder, and of the last one of the decoder.
        text: width of the texts' features.
        condition: width that both are brought to.
        groups: of channels that are normalised together; fewer where channels cannot be divided into so many.
    """

    def __init__(self, deep: int, fine: int, text: int, condition: int = 256, groups: int = GROUPS):
        super().__init__()
        self.precls_conv = nn.Sequential(_norm(fine, groups), nn.ReLU(), nn.Conv3d(fine, WIDTH, 1))
        self.GAP = nn.Sequential(_norm(deep, groups), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Conv3d(deep, condition, 1))
        self.controller = nn.Conv3d(2 * condition, PARAMETERS, 1)
        self.text_to_vision = nn.Linear(text, condition)

    def forward(self, deep: Tensor, fine: Tensor, texts: Tensor) -> Tensor:
        """(B, K, z, y, x) logits.

        Args:
            deep: (B, C, ...) deepest map.
            fine: (B, C', z, y, x) last map.
            texts: (K, D) features of the structures' texts.
        """
        image, text = self.GAP(deep).flatten(1), self.text_to_vision(texts).relu()  # (B, E), (K, E)
        pairs = torch.cat([image[:, None].expand(-1, len(text), -1), text.expand(len(image), -1, -1)], dim=-1)
        steered = self.controller(pairs.flatten(0, 1)[..., None, None, None]).flatten(1).unflatten(0, pairs.shape[:2])
        maps = self.precls_conv(fine).flatten(2)[:, None]  # (B, 1, 8, N)
        weights = steered[..., : sum(rows * columns for rows, columns in SHAPES)]
        biases = steered[..., weights.shape[-1] :]
        for place, (rows, columns) in enumerate(SHAPES):
            count = rows * columns
            weight, weights = weights[..., :count].unflatten(-1, (rows, columns)), weights[..., count:]
            bias, biases = biases[..., :rows, None], biases[..., rows:]
            maps = weight @ maps + bias  # (B, K, rows, N)
            maps = maps.relu() if place < len(SHAPES) - 1 else maps
        return maps[:, :, 0].unflatten(-1, fine.shape[2:])


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0), channels)


def partial_losses(logits: Tensor, labels: Tensor, annotated: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy and Dice, 1 - 2 sum(p t) / (sum p + sum t + 1) over the whole map, as means of those pairs
    of a volume and a structure that somebody outlined.

    Args:
        logits: (B, K, z, y, x).
        labels: (B, K, z, y, x) of 0 and 1.
        annotated: (B, K) bool.
    """
    axes, known = (2, 3, 4), annotated.float()
    count = known.sum().clamp(min=1)
    share, labels = logits.sigmoid(), labels.to(logits.dtype)
    binary = binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(axes)  # (B, K)
    dice = 1 - 2 * (share * labels).sum(axes) / (share.sum(axes) + labels.sum(axes) + 1)
    return {"loss_bce": (binary * known).sum() / count, "loss_dice": (dice * known).sum() / count}


@MODELS.register_module()
class ClipDrivenSegmentor(BaseModel):
    """The CLIP-Driven Universal Model ("CLIP-Driven Universal Model for Organ Segmentation and Tumor Detection", Liu et
    al. 2023, arXiv 2301.00785), on MONAI's DynUNet. Its texts are features of a backbone's text tower as it is.

    Args:
        network: config of a `vladapt.DynUNetFeatures`.
        classes: names of the K structures.
        backbone: spec of the backbone.
        text: width of its features.
        template: the text of a structure, with {} for its name.
        condition: as of `TextDrivenHead`.
        members, mirrored: as of `VolumeSegmentor`.
    """

    steered: ClassVar[bool] = True

    def __init__(
        self,
        network: Mapping[str, Any],
        classes: Sequence[str],
        backbone: str,
        text: int,
        template: str = "A computerized tomography of a {}",
        condition: int = 256,
        members: int = 1,
        mirrored: bool = False,
        **options: Any,
    ):
        super().__init__(**options)
        self.backbone, self.template, self.mirrored = backbone, template, mirrored
        self.networks = nn.ModuleList(MODELS.build(dict(network)) for _ in range(members))
        deep, fine = self.networks[0].widths
        self.heads = nn.ModuleList(TextDrivenHead(deep, fine, text, condition) for _ in range(members))
        self.texts: Tensor
        self.register_buffer("texts", torch.zeros(len(classes), text))

    def ask_for(self, names: Sequence[str]) -> None:
        """Take the texts of these structures in place of those that it has."""
        tower = load_backbone(self.backbone, device="cpu")
        with torch.no_grad():
            texts = tower.encode_text([self.template.format(name) for name in names], normalize=False)
        self.texts = texts.float().to(self.texts.device)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, annotated: Tensor | None = None, mode: str = "tensor"
    ):
        """Logits (B, K, z, y, x) of patches, or in training {"loss_bce", "loss_dice"}; arguments as of
        `VolumeSegmentor`."""
        if mode == "loss":
            assert labels is not None and annotated is not None
            logits = self.heads[0](*self.networks[0](inputs), self.texts)
            classes = logits.shape[1]
            if labels.shape[1] != classes or classes == 1:
                labels = one_hot(labels[:, 0].long(), classes + 1).movedim(-1, 1)[:, 1:]
            return partial_losses(logits, labels, annotated)
        members = [lambda x, n=n, h=h: h(*n(x), self.texts) for n, h in zip(self.networks, self.heads)]
        return over_views(members, inputs, self.mirrored)

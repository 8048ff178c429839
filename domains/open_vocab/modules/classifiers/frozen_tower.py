"""A second opinion on the name of a mask: that of the tower as it came, before any box or mask was learned.

"Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP" (FC-CLIP), 2023, arXiv
2308.02487: its classifier of the frozen tower, and the geometric mean of both, which is of ODISE (2023, arXiv
2303.04803).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.backbones import load_backbone
from .....core.contracts import Backbone, require
from ...vocabulary import text_backbone
from ..backbones.clip_vision import SMALLEST_CNN_IMAGE
from ..segmentors.maskclip import value_features

ALPHA, BETA = 0.4, 0.8
EPSILON = 1e-8


class FrozenTowerClassifier:
    """Regions named by a tower that is neither trained nor saved with the model: one for all models of a process.

    FC-CLIP's tower is a ConvNeXt, whose last map is averaged under each mask and then goes through the tower's head; so
    does every tower here that averages its last map. Of a vision transformer, and of CLIP's ResNets, the values of the
    last attention are averaged (MaskCLIP, 2021, arXiv 2112.01071).

    Args:
        backbone: spec of the backbone, whose texts the classes are.
        alpha: weight of the tower on names that were trained; published 0.4.
        beta: on all other names; published 0.8.
        short_side: pixels of the shorter side that the tower sees images at; None as they come to the model. A mask
            that covers no cell of the tower's map is named without it.

    Raises:
        ConfigError: a weight outside 0 to 1. CapabilityError: a tower without dense features.
    """

    def __init__(self, backbone: str, *, alpha: float = ALPHA, beta: float = BETA, short_side: int | None = None):
        require(0 <= alpha <= 1, "alpha", alpha, "give 0 to 1")
        require(0 <= beta <= 1, "beta", beta, "give 0 to 1")
        require(short_side is None or short_side >= 1, "short_side", short_side, "give pixels, or None")
        load_backbone(backbone, device="cpu").need("image_tokens")
        self.spec, self.alpha, self.beta, self.short_side = backbone, alpha, beta, short_side
        self._known: bool | None = None

    @torch.no_grad()
    def logits(self, images: Tensor, masks: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """What the tower says of each mask.

        Args:
            images: (B, 3, H, W), RGB in 0..255.
            masks: (B, Q, h, w) logits over the same extent.
            texts: (C, D), unit.

        Returns:
            (B, Q, C) cosines at the tower's own scale, and (B, Q) bool: which masks cover a cell.
        """
        tower = text_backbone(self.spec, str(images.device))
        pixels, averages = self._pixels(tower, images), self._averages(tower)
        dense = tower.feature_maps(pixels)[-1] if averages else value_features(tower, pixels)[0]  # (B, W, h, w)
        resized = F.interpolate(masks.float(), size=dense.shape[-2:], mode="bilinear", align_corners=False)
        inside = (resized > 0).to(dense.dtype)
        area = inside.sum(dim=(-2, -1))  # (B, Q)
        pooled = torch.einsum("bchw,bqhw->bqc", dense, inside) / (area[..., None] + EPSILON)
        if averages:
            pooled = tower.pool_map(pooled.flatten(0, 1)[..., None, None])[:, 0].unflatten(0, masks.shape[:2])
        return tower.logit_scale * F.normalize(pooled.float(), dim=-1) @ texts.T, area > 0

    def _averages(self, tower: Backbone) -> bool:
        """Whether it averages its last map."""
        if self._known is None:
            probe = torch.zeros(1, 3, SMALLEST_CNN_IMAGE, SMALLEST_CNN_IMAGE)
            self._known = "image_blocks" not in tower.capabilities and tower.value_tokens(probe)[1] is None
        return self._known

    def _pixels(self, tower: Backbone, images: Tensor) -> Tensor:
        """Normalised for the tower, at the size it is to see: of whole patches or cells where that is another."""
        sides = images.shape[-2:]
        if self.short_side is not None or "image_blocks" in tower.capabilities:
            stride, factor = tower.image_stride, (self.short_side or min(sides)) / min(sides)
            size = [max(1, round(side * factor / stride)) * stride for side in sides]
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        sides = (tower.image_mean, tower.image_std)
        mean, std = (torch.tensor(side, device=images.device)[:, None, None] for side in sides)
        return (images / 255 - mean) / std


def combined_logits(
    logits: Tensor, tower: Tensor, trained: Tensor, covered: Tensor, named: Tensor, alpha: float, beta: float
) -> Tensor:
    """Both classifiers' names of each mask: p of the head ** (1 - weight) * p of the tower ** weight, made to sum to 1.

    That is among the classes that a text names; how likely a mask shows none of them, "no object" or a learned
    background, the head alone says.

    Args:
        logits: (B, Q, C + 1) of the head, "no object" last.
        tower: (B, Q, C).
        trained: (C,) bool: names that have the weight `alpha`; others have `beta`.
        covered: (B, Q) bool: where the tower has a say.
        named: (C,) bool: classes that a text names.

    Returns:
        (B, Q, C + 1) log-probabilities, which are logits with the same softmax.
    """
    head = torch.log_softmax(logits, dim=-1)
    kept = head[..., :-1][..., named]  # (B, Q, N)
    weight = torch.where(trained[named], alpha, beta) * covered[..., None]
    mixed = (1 - weight) * torch.log_softmax(kept, dim=-1) + weight * torch.log_softmax(tower[..., named], dim=-1)
    both = head.clone()
    both[..., :-1][..., named] = torch.log_softmax(mixed, dim=-1) + kept.logsumexp(dim=-1, keepdim=True)
    return both


def raw_images(inputs: Tensor, preprocessor: Any) -> Tensor:
    """(B, 3, H, W), RGB in 0..255, of what a `data_preprocessor` of mm made of them."""
    if getattr(preprocessor, "_enable_normalize", False):
        inputs = inputs * preprocessor.std + preprocessor.mean
    converted = any(getattr(preprocessor, f"{start}channel_conversion", False) for start in ("", "_"))
    return inputs if converted else inputs.flip(1)

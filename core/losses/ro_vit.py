"""RO-ViT: focal loss over pairs, on images that are taken for regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.adapter import require
from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ._cropped_positions import CroppedPositions


class RoVit(Loss):
    """Region-Aware Pretraining for Open-Vocabulary Object Detection with Vision Transformers (Kim et al., 2023,
    arXiv 2305.07011).

    Each pair of an image and a text is a question of its own: with p the sigmoid of their scaled cosine where they
    belong together, and one minus it where they do not, it costs -(1 - p)^gamma log p. The costs of an image with all
    texts are summed and averaged over images; from texts to images the sum is the same. Released with it: a weight of
    2 alpha for pairs that belong together and 2 (1 - alpha) for the others, both 1 by default.

    Before training, `prepare` makes the image tower see random regions of its up-sampled positions while it is in
    train mode (see `_cropped_positions`). The released sampler reads regions half a cell of the up-sampled grid
    further down and right; here cells are read at their centres.

    Args:
        gamma: how little easy pairs count, 0 or more.
        alpha: share of the weight that pairs that belong together have, 0 to 1.
        cropped_positions: whether positions are cropped; if not, any backbone will do.
        fine_grid: side of the up-sampled grid of positions.
        crop_scale: lowest and highest share of its area that a region has, above 0 to 1.
        crop_aspect: lowest and highest width over height of a region, above 0.

    Raises:
        ConfigError: an option is out of range.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        gamma: float = 1.0,
        alpha: float = 0.5,
        cropped_positions: bool = True,
        fine_grid: int = 64,
        crop_scale: Sequence[float] = (0.1, 1.0),
        crop_aspect: Sequence[float] = (0.5, 2.0),
    ):
        super().__init__(dims)
        require(gamma >= 0, "gamma", gamma, "give 0 or more")
        require(0 <= alpha <= 1, "alpha", alpha, "give 0 to 1")
        require(fine_grid >= 1, "fine_grid", fine_grid, "give 1 or more")
        require(_is_range(crop_scale, 1.0), "crop_scale", crop_scale, "give two numbers, above 0 and up to 1")
        require(_is_range(crop_aspect, float("inf")), "crop_aspect", crop_aspect, "give two numbers above 0")
        self.gamma, self.alpha, self.cropped_positions = gamma, alpha, cropped_positions
        self.fine_grid, self.crop_scale, self.crop_aspect = fine_grid, tuple(crop_scale), tuple(crop_aspect)
        self._hook = None

    def prepare(self, backbone: Backbone) -> None:
        """Has the image tower crop its positions in training.

        Raises:
            CapabilityError: it has none.
        """
        if not self.cropped_positions:
            return
        from ..backbones.positions import image_positions

        positions = image_positions(backbone)
        if self._hook is not None:
            self._hook.remove()
        crop = CroppedPositions(positions, self.fine_grid, self.crop_scale, self.crop_aspect)
        self._hook = positions.patches.register_forward_hook(crop)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T  # (B, B)
        positive = self._focal(logits.diagonal()).mean()
        every = self._focal(-logits)  # as if none belonged together
        negative = (every.sum() - every.diagonal().sum()) / len(logits)
        loss = 2 * self.alpha * positive + 2 * (1 - self.alpha) * negative
        return {"loss": loss, "positive": positive, "negative": negative}

    def _focal(self, logits: Tensor) -> Tensor:
        """-(1 - p)^gamma log p, where p is the sigmoid of the logits."""
        return (-self.gamma * F.softplus(logits)).exp() * F.softplus(-logits)


def _is_range(ends: Sequence[float], highest: float) -> bool:
    return len(ends) == 2 and 0 < ends[0] <= ends[1] <= highest

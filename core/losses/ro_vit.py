"""RO-ViT: focal loss over pairs, on images that are treated as regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option, require
from ..runtime.ranks import Ranks
from ._cropped_positions import CroppedPositions
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class RoVit(RowLoss):
    """Region-Aware Pretraining for Open-Vocabulary Object Detection with Vision Transformers (Kim et al., 2023,
    arXiv 2305.07011).

    Each pair of an image and a text is a binary classification: with p the sigmoid of their scaled cosine for positive
    pairs, and one minus it for negative ones, its loss is -(1 - p)^gamma log p. The losses of an image with all
    texts are summed and averaged over images; from texts to images the sum is the same. The released code also has
    weights, 2 alpha for positive pairs and 2 (1 - alpha) for the others, both 1 by default.

    Before training, `prepare` makes the image tower see random regions of its up-sampled positions while it is in
    train mode (see `_cropped_positions`). The released sampler reads regions half a cell of the up-sampled grid
    further down and right; here cells are read at their centres.

    Raises:
        ConfigError: a range that ends below its start.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> parts = vladapt.build_loss("ro-vit", gamma=0)(out)
        >>> {name: round(float(part), 3) for name, part in parts.items()}
        {'loss': 2.079, 'positive': 0.0, 'negative': 2.079}
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})

    gamma: float = option(1.0, "focusing parameter; the higher, the less easy pairs count", low=0, high=1000)
    alpha: float = option(0.5, "share of the weight that positive pairs have", low=0, high=1)
    cropped_positions: bool = option(True, "crop the image tower's position embeddings; without it any backbone works")
    fine_grid: int = option(64, "side of the up-sampled grid of position embeddings", low=1, high=4096)
    crop_scale: tuple[float, float] = option(
        (0.1, 1.0), "lowest and highest share of the area of a region", above=0, high=1
    )
    crop_aspect: tuple[float, float] = option(
        (0.5, 2.0), "lowest and highest width over height of a region", above=0, high=1000
    )
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        for name in ("crop_scale", "crop_aspect"):
            low, high = getattr(self, name)
            require(low <= high, name, (low, high), "give the lower number first")
        self._hook = None

    def prepare(self, backbone: Backbone) -> None:
        """Has the image tower crop its positions in training.

        Raises:
            CapabilityError: it has none.
        """
        if not self.cropped_positions:
            return

        positions = backbone.image_positions()
        if self._hook is not None:
            self._hook.remove()
        crop = CroppedPositions(positions, self.fine_grid, self.crop_scale, self.crop_aspect)
        self._hook = positions.patches.register_forward_hook(crop)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        logits = with_all(out["logit_scale"] * out["image_features"], out["text_features"], ranks, self.products)
        first = ranks.own(len(logits)).start  # the column that belongs to the first row
        positive = ranks.average(self._focal(logits.diagonal(first)).mean())
        every = self._focal(-logits)  # as if none belonged together
        negative = ranks.average((every.sum() - every.diagonal(first).sum()) / len(logits))
        loss = 2 * self.alpha * positive + 2 * (1 - self.alpha) * negative
        return {"loss": loss, "positive": positive, "negative": negative}

    def _focal(self, logits: Tensor) -> Tensor:
        """-(1 - p)^gamma log p, where p is the sigmoid of the logits."""
        return (-self.gamma * F.softplus(logits)).exp() * F.softplus(-logits)

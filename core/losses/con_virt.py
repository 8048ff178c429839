"""ConVIRT: images pick their texts and texts their images, the first counting more, at a fixed temperature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class ConVirt(RowLoss):
    """Contrastive Learning of Medical Visual Representations from Paired Images and Text (ConVIRT; Zhang et al., 2020,
    arXiv 2010.00747).

    `image_weight` of the cross-entropy of each image's own text among the batch's, and the rest of that of each text's
    own image, of cosines divided by `temperature`. The paper draws a sentence of each report (`captions=sentences`).

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4)}
        >>> round(float(vladapt.build_loss("con-virt", temperature=1.0)(out)["loss"]), 3)
        0.744
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features"})
    of_products: ClassVar[bool] = True

    temperature: float = option(0.1, "what cosines are divided by", above=0, high=100)
    image_weight: float = option(0.75, "weight of images that pick texts; the rest is of texts", low=0, high=1)
    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        cosines = with_all(out["image_features"], out["text_features"], ranks, self.products)
        logits = cosines / self.temperature  # (n, N)
        to_text = ranks.average(F.cross_entropy(logits, ranks.own_pairs(logits)))
        to_image = ranks.average(ranks.cross_entropy_down(logits))
        loss = self.image_weight * to_text + (1 - self.image_weight) * to_image
        return {"loss": loss, "image_to_text": to_text, "text_to_image": to_image}

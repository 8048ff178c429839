"""NegCLIP: each caption's hard negative is added to the captions that an image must tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import RowLoss
from ..runtime.ranks import ONE, Ranks
from ._products import multiplied, products_option


@dataclass(eq=False, repr=False, kw_only=True)
class NegClip(RowLoss):
    """When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?
    (Yuksekgonul et al., 2022, arXiv 2210.01936).

    CLIP's loss, where an image chooses among the captions of the batch and a hard negative of each (words swapped, for
    instance); a caption chooses only among the images. L = (CE([s I T^T | s I N^T]) + CE(s T I^T)) / 2.

    The part "accuracy" is the share of right choices in the batch, over both directions.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> parts = vladapt.build_loss("neg-clip")({**out, "text_negative": torch.eye(4).roll(1, 0)})
        >>> float(parts["accuracy"])
        1.0
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "text_negative", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        texts, negatives = ranks.columns(out["text_features"]), ranks.columns(out["text_negative"])
        loss, accuracy = contrast_with_hard_negatives(
            out["image_features"], texts, negatives, out["logit_scale"], ranks, self.products
        )
        return {"loss": loss, "accuracy": accuracy}


def contrast_with_hard_negatives(
    image: Tensor, text: Tensor, negative_text: Tensor, scale: Tensor, ranks: Ranks = ONE, products: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """NegCLIP's loss: images choose among captions and hard negatives, captions among images.

    Args:
        image: (n, D) unit rows, of this rank.
        text: (N, D) unit rows, the captions of all ranks.
        negative_text: (N, D) unit rows, a hard negative of each caption.
        scale: what cosines are multiplied by.
        ranks: that hold the rows.
        products: "fp32" or "bf16".

    Returns:
        The loss, and the share of right choices, averaged over both directions, without gradient.
    """
    scaled = multiplied(scale * image, text, products)  # (n, N)
    hard = multiplied(scale * image, negative_text, products)  # (n, N)
    of_images = torch.cat([scaled, hard], dim=1)  # (n, 2 N)
    right = ranks.own_pairs(scaled)
    loss = (F.cross_entropy(of_images, right) + ranks.cross_entropy_down(scaled)) / 2
    chosen = (of_images.detach().argmax(dim=1), ranks.argmax_down(scaled.detach()))
    hits = [(choice == right).float().mean() for choice in chosen]
    return ranks.average(loss), ranks.average((hits[0] + hits[1]) / 2)

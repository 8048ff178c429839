"""TripletCLIP: hard negative captions and hard negative images, each the other's positive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import RowLoss
from ..runtime.ranks import Ranks
from ._products import products_option
from .neg_clip import contrast_with_hard_negatives


@dataclass(eq=False, repr=False, kw_only=True)
class TripletClip(RowLoss):
    """TripletCLIP: Improving Compositional Reasoning of CLIP via Synthetic Vision-Language Negatives
    (Patel et al., 2024, arXiv 2411.02545).

    Each pair comes with a hard negative caption and an image made of that caption. L = NegCLIP(I, T, N) +
    NegCLIP(J, N, T), with J the negative images: in the second term the negative pair is the positive one, and the
    captions are its hard negatives.

    Parts: "positives" and "negatives" are the two terms, "accuracy" the share of right choices over both.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> other = {"image_negative": torch.eye(4).roll(1, 0), "text_negative": torch.eye(4).roll(1, 0)}
        >>> sorted(vladapt.build_loss("triplet-clip")({**out, **other}))
        ['accuracy', 'loss', 'negatives', 'positives']
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"image_features", "text_features", "image_negative", "text_negative", "logit_scale"}
    )
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        text, negative = ranks.columns(out["text_features"]), ranks.columns(out["text_negative"])  # (N, D)
        how = out["logit_scale"], ranks, self.products
        positives, hits = contrast_with_hard_negatives(out["image_features"], text, negative, *how)
        negatives, negative_hits = contrast_with_hard_negatives(out["image_negative"], negative, text, *how)
        return {
            "loss": positives + negatives,
            "positives": positives,
            "negatives": negatives,
            "accuracy": (hits + negative_hits) / 2,
        }

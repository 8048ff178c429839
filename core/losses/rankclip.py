"""RankCLIP: images and texts rank one another, and themselves, in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._info_nce import info_nce
from ._products import products_option, with_all

STEEPNESS, HIGHEST_WEIGHT = 3.0, 2.0


@dataclass(eq=False, repr=False, kw_only=True)
class Rankclip(RowLoss):
    """RankCLIP: Ranking-Consistent Language-Image Pretraining (Zhang et al., 2024, arXiv 2404.09387).

    CLIP's loss, and two consistency terms that grow with time: each image should rank the texts as its text ranks the
    images (cross-modal), and the images as its text ranks the texts (in-modal), both ways. A ranking is learned by
    ListMLE (Listwise Approach to Learning to Rank, Xia et al., 2008): the likelihood of the other side's order.

    L = L_clip + w (lambda_cross R_cross + lambda_in R_in) / B, with R the sum of both directions' ListMLE, mean over
    rows and divided by 32, and w = 3 progress, at most 2. Epoch e of E has the published weight at progress
    (e - 1) / (E - 1).

    The divisor, the 1 / B and `eps` are not in the paper's formula; they are what its models were trained with, and
    have options; `eps` bounds what the last ranks can cost, the largest exponential being 1. Equal scores are ranked in
    the order of the batch, where the released code shuffles them; and a score of exactly -1 counts as any other, where
    that code takes it for padding.

    Parts: "clip", "cross_modal", "in_modal" (both with divisors, without w), "weight" (w).

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("rankclip", lambda_in=0)
        >>> sorted(loss(out, progress=0.5))
        ['clip', 'cross_modal', 'loss', 'weight']
    """

    differs: ClassVar[str] = (
        "equal scores keep the order of the batch (released: shuffled); a score of -1 is not treated as padding"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    lambda_cross: float = option(
        1.0, "weight of the cross-modal term, 0 for none; lambda2 in the code", low=0, high=10_000
    )
    lambda_in: float = option(1.0, "weight of the in-modal term, 0 for none; lambda1 in the code", low=0, high=10_000)
    divisor: float = option(32.0, "divides both terms", above=0, high=1_000_000)
    per_sample: bool = option(True, "divide both terms by the batch size too")
    eps: float = option(1e-10, "added to each sum of exponentials; 0 leaves the plain likelihood", low=0, high=1)
    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        image, text, scale = out["image_features"], out["text_features"], out["logit_scale"]
        weight = image.new_tensor(ranking_weight(progress))
        parts = {"clip": info_nce(image, text, scale, ranks=ranks, products=self.products), "weight": weight}
        loss = parts["clip"]
        if self.lambda_cross:
            parts["cross_modal"] = self._consistency(*self._cross_scores(image, text, scale, ranks), ranks)
            loss = loss + parts["weight"] * self.lambda_cross * parts["cross_modal"]
        if self.lambda_in:
            scores = [with_all(scale * rows, rows, ranks, self.products) for rows in (image, text)]  # (n, N)
            parts["in_modal"] = self._consistency(*scores, ranks)
            loss = loss + parts["weight"] * self.lambda_in * parts["in_modal"]
        return {"loss": loss, **parts}

    def _consistency(self, one: Tensor, other: Tensor, ranks: Ranks) -> Tensor:
        both = ranks.average(list_mle(one, other, self.eps) + list_mle(other, one, self.eps))
        return both / self.divisor / (one.shape[1] if self.per_sample else 1)

    def _cross_scores(self, image: Tensor, text: Tensor, scale: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """(n, N) of this rank's images with all texts, and of its texts with all images, each to be ranked whole."""
        of_images = with_all(scale * image, text, ranks, self.products)
        return of_images, of_images.T if ranks.size == 1 else with_all(scale * text, image, ranks, self.products)


def ranking_weight(progress: float) -> float:
    """How much the rankings count at a share of training, 0 to 1."""
    return min(max(STEEPNESS * progress, 0.0), HIGHEST_WEIGHT)


def list_mle(scores: Tensor, order_by: Tensor, eps: float = 0.0) -> Tensor:
    """Minus the log likelihood, mean over rows, of ranking by descending `order_by` (N, M), if `scores` (N, M) rank.

    Equal values of `order_by` keep their order. No gradient reaches it.
    """
    order = order_by.detach().argsort(dim=1, descending=True, stable=True)
    ranked = scores.gather(1, order)  # (N, M)
    ranked = ranked - ranked.max(dim=1, keepdim=True).values
    still_there = ranked.flip(1).logcumsumexp(dim=1).flip(1)  # of this rank and all below
    if eps:
        still_there = torch.logaddexp(still_there, still_there.new_tensor(math.log(eps)))
    return (still_there - ranked).sum(dim=1).mean()

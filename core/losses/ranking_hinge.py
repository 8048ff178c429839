"""The global ranking hinge of image-text matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class RankingHinge(RowLoss):
    """A pair's cosine must exceed, by a margin, those of its image with other captions and of its caption with others.

    Deep Learning Applied to Image and Text Matching, 2016, arXiv 1601.03478, trains on the sum over all others;
    VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, 2017, arXiv 1707.05612, on the hardest one alone.
    No temperature. The loss is the mean over pairs, as in VSE++'s paper; its released code takes the sum.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4)}
        >>> loss = vladapt.build_loss("ranking-hinge", margin=1.1, hardest=True)
        >>> round(loss(out)["loss"].item(), 3)
        0.2
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features"})

    margin: float = option(0.2, "margin by which a pair must score above others (0.2 in VSE++)", above=0, high=100)
    hardest: bool = option(False, "use only the hardest negative of each image and caption, not the sum over all")
    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        cosines = with_all(out["image_features"], out["text_features"], ranks, self.products)  # (n, N)
        own, itself = ranks.own(len(cosines)), ranks.is_own_pair(cosines)
        positives = cosines.diagonal(own.start)  # (n,)
        of_rows = self._violations(cosines, positives, itself)
        of_columns = self._violations(cosines.T, ranks.columns(positives), itself.T).T
        if self.hardest:
            to_text, to_image = of_rows.amax(dim=1).mean(), ranks.amax_down(of_columns)[own].mean()
        else:
            to_text, to_image = of_rows.sum(dim=1).mean(), ranks.mean_of_sums_down(of_columns)
        parts = {"image_to_text": ranks.average(to_text), "text_to_image": ranks.average(to_image)}
        return {"loss": parts["image_to_text"] + parts["text_to_image"], **parts}

    def _violations(self, cosines: Tensor, positives: Tensor, itself: Tensor) -> Tensor:
        """How far others come too near to the pair of their row."""
        return (self.margin + cosines - positives[:, None]).clamp(min=0).masked_fill(itself, 0.0)

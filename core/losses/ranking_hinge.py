"""The global ranking hinge of image-text matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._columns import amax_down, is_own_pair, mean_of_sums_down
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class RankingHinge(RowLoss):
    """A pair's cosine is to lie a margin above those of its image with other captions, and of its caption with others.

    Deep Learning Applied to Image and Text Matching, 2016, arXiv 1601.03478, trains on the sum over all others;
    VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, 2017, arXiv 1707.05612, on the hardest one alone.
    No temperature. The mean over pairs is taken, as VSE++'s paper says; its released code leaves the sum.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4)}
        >>> loss = vladapt.build_loss("ranking-hinge", margin=1.1, hardest=True)
        >>> round(loss(out)["loss"].item(), 3)
        0.2
    """

    differs: ClassVar[str] = (
        "no fixture; the tests check it against equations written out, or against the library's own"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features"})

    margin: float = option(0.2, "margin of a pair over the others (0.2 in VSE++)", above=0, high=100)
    hardest: bool = option(False, "count only the hardest negative of each image and caption, not the sum of all")
    products: str = products_option()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        cosines = with_all(out["image_features"], out["text_features"], ranks, self.products)  # (n, N)
        own, itself = ranks.own(len(cosines)), is_own_pair(cosines, ranks)
        positives = cosines.diagonal(own.start)  # (n,)
        of_rows = self._violations(cosines, positives, itself)
        of_columns = self._violations(cosines.T, ranks.columns(positives), itself.T).T
        if self.hardest:
            to_text, to_image = of_rows.amax(dim=1).mean(), amax_down(of_columns, ranks)[own].mean()
        else:
            to_text, to_image = of_rows.sum(dim=1).mean(), mean_of_sums_down(of_columns, ranks)
        parts = {"image_to_text": ranks.average(to_text), "text_to_image": ranks.average(to_image)}
        return {"loss": parts["image_to_text"] + parts["text_to_image"], **parts}

    def _violations(self, cosines: Tensor, positives: Tensor, itself: Tensor) -> Tensor:
        """How far others come too near to the pair of their row."""
        return (self.margin + cosines - positives[:, None]).clamp(min=0).masked_fill(itself, 0.0)

"""Similarity distribution matching of text-to-image person retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import Ranks
from ._products import products_option, with_all


@dataclass(eq=False, repr=False, kw_only=True)
class Sdm(RowLoss):
    """Trains the softmax of a sample's cosines with the batch to be uniform over the samples of the same identity.

    Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval (IRRA), 2023,
    arXiv 2303.12501. With p the softmax of scaled cosines and q the even distribution over equal labels, the loss is
    KL(p || q) of images to texts plus that of texts to images. Note the direction: probability on others is
    penalised by the log of `epsilon`, and p need not cover all positives. The scale is a constant, not a parameter.

    Where the data tells images apart, the released function takes other images of the same person for positives of
    less weight. As released, q is then divided by the sums of columns, which are those of rows where weights are even.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "labels": torch.tensor([0, 1, 2, 2])}
        >>> loss = vladapt.build_loss("sdm", logit_scale=20)
        >>> sorted(loss(out))
        ['image_to_text', 'loss', 'text_to_image']
    """

    differs: ClassVar[str] = "none; IRRA's other losses in the same fixture are compared with the losses of those names"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "labels"})

    logit_scale: float = option(50.0, "what cosines are multiplied by", above=0, high=10_000)
    epsilon: float = option(1e-8, "added to the targets inside the logarithm", above=0, high=1)
    factor: float = option(
        0.3, "weight of the same person in another image, where `image_ids` are given", low=0, high=1
    )
    image_ids: bool = option(False, "require `image_ids`, which are used wherever they are given")
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if self.image_ids:
            self.needs = self.needs | {"image_ids"}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        images, texts = (F.normalize(out[name], dim=1) for name in ("image_features", "text_features"))
        logits = with_all(self.logit_scale * images, texts, ranks, self.products)  # (n, N)
        targets = self._matching(out, ranks).to(logits)
        sums = ranks.total(targets.sum(dim=0))  # (N,)
        to_text = self._divergence(logits.log_softmax(dim=1), targets / sums).sum(dim=1).mean()
        # Each text's targets over images: the matching is symmetric, and it is the images' sums that divide it.
        targets = targets / sums[ranks.own(len(targets)), None]
        to_image = ranks.mean_of_sums_down(self._divergence(ranks.log_softmax_down(logits), targets))
        parts = {"image_to_text": ranks.average(to_text), "text_to_image": ranks.average(to_image)}
        return {"loss": parts["image_to_text"] + parts["text_to_image"], **parts}

    def _matching(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        """(n, N): 1 where the identity is the same, but `factor` where the image is another one."""
        labels, image_ids = out["labels"], out.get("image_ids")
        same = (labels[:, None] == ranks.columns(labels)).float()
        if image_ids is None:
            return same
        same_image = (image_ids[:, None] == ranks.columns(image_ids)).float()
        return self.factor * same + (1 - self.factor) * same_image

    def _divergence(self, log_found: Tensor, targets: Tensor) -> Tensor:
        """What each entry adds to KL(found || targets)."""
        return log_found.exp() * (log_found - (targets + self.epsilon).log())

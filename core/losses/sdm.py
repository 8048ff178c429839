"""Similarity distribution matching of text-to-image person retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import Loss
from ..contracts.options import option


@dataclass(eq=False, repr=False, kw_only=True)
class Sdm(Loss):
    """The softmax of a sample's cosines with the batch is to be spread over the samples of the same identity alone.

    Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval (IRRA), 2023,
    arXiv 2303.12501. With p the softmax of scaled cosines and q the even distribution over equal labels, the loss is
    KL(p || q) of images to texts plus that of texts to images. Note the direction: what p puts on others is punished
    by the log of `epsilon`, and p need not cover all that are right. The scale is a constant, no parameter.

    Where the data tells images apart, the released function takes other images of the same person for positives of
    less weight. As released, q is then divided by the sums of columns, which are those of rows where weights are even.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "labels": torch.tensor([0, 1, 2, 2])}
        >>> loss = vladapt.build_loss("sdm", logit_scale=20)
        >>> sorted(loss(out))
        ['image_to_text', 'loss', 'text_to_image']
    """

    differs: ClassVar[str] = "none; the fixture's `itc`, `cmpm`, `id` and `mlm`, IRRA's other losses, are not compared"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "labels"})

    logit_scale: float = option(50.0, "what cosines are multiplied by", above=0, high=10_000)
    epsilon: float = option(1e-8, "added to the targets inside the logarithm", above=0, high=1)
    factor: float = option(
        0.3, "weight of the same person in another image, where `image_ids` are given", low=0, high=1
    )
    image_ids: bool = option(False, "ask for `image_ids`, which are used wherever they are given")

    def __post_init__(self):
        super().__post_init__()
        if self.image_ids:
            self.needs = self.needs | {"image_ids"}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        images, texts = (F.normalize(out[name], dim=1) for name in ("image_features", "text_features"))
        logits = self.logit_scale * images @ texts.T  # (B, B)
        targets = matching(out["labels"], out.get("image_ids"), self.factor).to(logits)
        log_targets = (targets / targets.sum(dim=0) + self.epsilon).log()
        to_text, to_image = divergence(logits, log_targets), divergence(logits.T, log_targets)
        return {"loss": to_text + to_image, "image_to_text": to_text, "text_to_image": to_image}


def matching(labels: Tensor, image_ids: Tensor | None, factor: float) -> Tensor:
    """(B, B): 1 where the identity is the same, but `factor` where the image is another one."""
    same = (labels[:, None] == labels).float()
    if image_ids is None:
        return same
    same_image = (image_ids[:, None] == image_ids).float()
    return factor * same + (1 - factor) * same_image


def divergence(logits: Tensor, log_targets: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(logits) || targets)."""
    log_found = logits.log_softmax(dim=1)
    return (log_found.exp() * (log_found - log_targets)).sum(dim=1).mean()

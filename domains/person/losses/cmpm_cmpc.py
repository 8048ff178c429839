"""CMPM and CMPC: projections of images on texts, matched over the batch and classified by person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import RowLoss, option
from ....core.errors import ConfigError
from ....core.losses import products_option, with_all
from ....core.runtime import Ranks
from .identity import NOBODY, number_of_people


@dataclass(eq=False, repr=False, kw_only=True)
class CmpmCmpc(RowLoss):
    """Deep Cross-Modal Projection Learning for Image-Text Matching (Zhang and Lu, ECCV 2018, doi
    10.1007/978-3-030-01246-5_42).

    CMPM: with p the softmax of the products of an image, not normalised, with all unit texts, and q the uniform
    distribution over equal identities, KL(p || q), and the same from texts to images. CMPC: each image is projected on
    its unit text, each text on its unit image, and a classifier with unit weights predicts the person of both.

    As released, and as PLIP fine-tunes with it (2023, arXiv 2305.08386), q is normalised to a Euclidean length of 1,
    not to a sum of 1. If each person occurs once in a batch this is the same. `even_targets` normalises to sums of 1,
    as in the paper.

    Raises:
        ConfigError: both weights are 0.
        CapabilityError: as of `identity`, where people are named.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_embedding": torch.eye(4), "text_embedding": torch.eye(4), "labels": torch.arange(4) % 3}
        >>> loss = vladapt.build_loss("cmpm-cmpc", {"embed_dim": 4, "num_labels": 3})
        >>> sorted(loss(out))
        ['cmpc', 'cmpm', 'loss']
    """

    differs: ClassVar[str] = "none; samples with an identity below 0, which show nobody, are not classified"
    needs: ClassVar[frozenset[str]] = frozenset({"image_embedding", "text_embedding", "labels"})

    cmpm: float = option(1.0, "weight of the matching, 0 for none", low=0, high=10_000)
    cmpc: float = option(1.0, "weight of the classification, 0 for none", low=0, high=10_000)
    epsilon: float = option(1e-8, "added to the targets inside the logarithm", above=0, high=1)
    even_targets: bool = option(False, "normalise targets to sum 1, as in the paper, not to length 1, as released")
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if not (self.cmpm or self.cmpc):
            raise ConfigError(f"{self.title}: both weights are 0; give one above 0")
        if self.cmpc:
            width, people = self.dim("embed_dim", "its classifier of people"), number_of_people(self)
            self.classifier = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, people)))  # (D, C)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        parts = {}
        if self.cmpm:
            parts["cmpm"] = self._matched(out, ranks)
        if self.cmpc:
            parts["cmpc"] = self._named(out, ranks)
        return {"loss": sum(getattr(self, name) * part for name, part in parts.items()), **parts}

    def _matched(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        image, text, labels = out["image_embedding"], out["text_embedding"], out["labels"]
        same = (labels[:, None] == ranks.columns(labels)).to(image)  # (n, N)
        counts = ranks.total(same.sum(dim=0))  # (N,) of each column, which is that of its row: the match is symmetric
        targets = same / (counts if self.even_targets else counts.sqrt())
        to_text = with_all(image, F.normalize(text, dim=1), ranks, self.products).log_softmax(dim=1)
        to_image = ranks.log_softmax_down(with_all(F.normalize(image, dim=1), text, ranks, self.products))
        over_texts = self._divergence(to_text, targets).sum(dim=1).mean()
        over_images = ranks.mean_of_sums_down(self._divergence(to_image, targets))
        return ranks.average(over_texts + over_images)

    def _divergence(self, log_found: Tensor, targets: Tensor) -> Tensor:
        """What each entry adds to KL(found || targets)."""
        return log_found.exp() * (log_found - (targets + self.epsilon).log())

    def _named(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        image, text, labels = out["image_embedding"], out["text_embedding"], out["labels"]
        unit_image, unit_text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        weights = F.normalize(self.classifier, dim=0)
        projected = (
            (image * unit_text).sum(dim=1, keepdim=True) * unit_text,
            (text * unit_image).sum(dim=1, keepdim=True) * unit_image,
        )
        errors = [F.cross_entropy(each @ weights, labels, ignore_index=NOBODY, reduction="sum") for each in projected]
        return ranks.total(sum(errors)) / ranks.total((labels > NOBODY).sum()).clamp(min=1)

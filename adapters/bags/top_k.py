"""Top-k pooling: a bag scores for a class as the instances do that look most like it, without training.

Take it for slides with few labels or none, where a text tower knows what the classes look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, option


@dataclass(eq=False, kw_only=True)
class TopK(Adapter):
    """MI-Zero: Visual Language Pretrained Multiple Instance Zero-Shot Transfer for Histopathology Images (Lu et al.,
    2023, arXiv 2306.07831).

    Scores of a bag's parts are cosines to the class texts; that of the bag is the mean of the k largest, chosen for
    each class anew (the authors sum them, which ranks classes alike). k = 0 is the mean over all. Nothing is learned,
    and the support is not used.

    Raises:
        CapabilityError: samples without parts.

    Example:
        >>> adapter = build_adapter("top-k", k=5)
        >>> report = adapter.fit(support, classifier)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"parts"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"parts"})
    reads_bags: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    multilabel: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "negative", "logit_scale", "logit_bias")
    differs: ClassVar[str] = "the mean of the largest scores in place of their sum, times the logit scale of the towers"

    k: int = option(5, "parts that count for a class, those most like it; 0: all", low=0, high=10_000_000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        self.negative = classifier.negative if self.multilabel_ else None
        self.logit_bias = float(classifier.logit_bias or 0.0)
        return FitReport(self.name, {"k": self.k}, "options")

    def bag_logits(self, bag: Tensor) -> Tensor:
        texts = self.text if self.negative is None else torch.cat([self.text, self.negative])
        pooled = pooled_scores(cosines(bag, texts), self.k)
        if self.negative is None:
            return self.logit_scale * pooled + self.logit_bias
        classes = len(self.text)
        return self.logit_scale * (pooled[:classes] - pooled[classes:])

    def _logits(self, batch: Batch) -> Tensor:
        return torch.stack([self.bag_logits(bag) for bag in batch.bags])

    def attention(self, bag: Tensor) -> Tensor:
        """(C, T): those that count for a class, all alike."""
        self.check_fitted()
        scores = cosines(bag, self.text)
        chosen = scores.argsort(dim=0, descending=True)[: self.k or None]  # (k, C)
        counts = torch.zeros_like(scores).scatter(0, chosen, 1.0)
        return (counts / counts.sum(dim=0)).T


def cosines(bag: Tensor, texts: Tensor) -> Tensor:
    """(T, D) parts and unit texts (C, D) -> (T, C)."""
    return F.normalize(bag, dim=-1) @ texts.T


def pooled_scores(scores: Tensor, k: int) -> Tensor:
    """(T, C) -> (C,) means of the k largest of each class, or of all where there are fewer, or k is 0."""
    return scores.sort(dim=0, descending=True).values[: k or None].mean(dim=0)

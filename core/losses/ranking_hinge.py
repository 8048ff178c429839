"""The global ranking hinge of image-text matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts.adapter import require
from ..contracts.loss import Loss


class RankingHinge(Loss):
    """A pair's cosine is to lie a margin above those of its image with other captions, and of its caption with others.

    Deep Learning Applied to Image and Text Matching, 2016, arXiv 1601.03478, trains on the sum over all others;
    VSE++: Improving Visual-Semantic Embeddings with Hard Negatives, 2017, arXiv 1707.05612, on the hardest one alone.
    No temperature. The mean over pairs is taken, as VSE++'s paper says; its released code leaves the sum.

    Args:
        margin: how far a pair is to lie above others, above 0 (0.2 in VSE++).
        hardest: whether only the hardest other of each image and each caption counts, instead of the sum.

    Raises:
        ConfigError: margin is not above 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features"})

    def __init__(self, dims: Mapping[str, int] | None = None, margin: float = 0.2, hardest: bool = False):
        super().__init__(dims)
        require(margin > 0, "margin", margin, "give a number above 0")
        self.margin, self.hardest = float(margin), bool(hardest)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        cosines = out["image_features"] @ out["text_features"].T  # (B, B)
        to_text, to_image = self._violations(cosines), self._violations(cosines.T)
        return {"loss": to_text + to_image, "image_to_text": to_text, "text_to_image": to_image}

    def _violations(self, cosines: Tensor) -> Tensor:
        """Mean over rows of how far others come too near to the row's own."""
        own = cosines.diagonal()[:, None]
        itself = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        violations = (self.margin + cosines - own).clamp(min=0).masked_fill(itself, 0.0)
        return (violations.amax(dim=1) if self.hardest else violations.sum(dim=1)).mean()

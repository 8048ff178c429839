"""The global ranking hinge of image-text matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts.loss import Loss
from ..contracts.options import option


@dataclass(eq=False, repr=False, kw_only=True)
class RankingHinge(Loss):
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

    margin: float = option(0.2, "how far a pair is to lie above others (0.2 in VSE++)", above=0, high=100)
    hardest: bool = option(False, "count only the hardest other of each image and caption, not their sum")

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        cosines = out["image_features"] @ out["text_features"].T  # (B, B)
        to_text, to_image = self._violations(cosines), self._violations(cosines.T)
        return {"loss": to_text + to_image, "image_to_text": to_text, "text_to_image": to_image}

    def _violations(self, cosines: Tensor) -> Tensor:
        """Mean over rows of how far others come too near to the row's own."""
        positives = cosines.diagonal()[:, None]
        itself = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        violations = (self.margin + cosines - positives).clamp(min=0).masked_fill(itself, 0.0)
        return (violations.amax(dim=1) if self.hardest else violations.sum(dim=1)).mean()

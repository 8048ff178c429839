"""Texts pull their images, a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vladapt import Loss, option


@dataclass(eq=False, repr=False, kw_only=True)
class SpotPull(Loss):
    """One minus the cosine of each pair, and the cosine of what is no pair above a margin.

    Example:
        >>> import torch
        >>> loss = SpotPull(margin=0.5)
        >>> one_hot = torch.eye(2)
        >>> loss({"image_features": one_hot, "text_features": one_hot})["loss"]
        tensor(0.)
    """

    needs: ClassVar = frozenset({"image_features", "text_features"})

    margin: float = option(0.0, "cosine that images may have with other texts", low=-1, high=1)

    def compute(self, out, progress):
        cosines = out["image_features"] @ out["text_features"].T  # (B, B)
        near = (1 - cosines.diagonal()).mean()
        far = (cosines - self.margin).clamp(min=0).fill_diagonal_(0).sum(dim=1).mean()
        return {"loss": near + far, "near": near.detach(), "far": far.detach()}

"""NegCLIP: each caption's hard negative stands among the captions that an image must tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.loss import Loss


@dataclass(eq=False, repr=False, kw_only=True)
class NegClip(Loss):
    """When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It?
    (Yuksekgonul et al., 2022, arXiv 2210.01936).

    CLIP's loss, where an image chooses among the captions of the batch and a hard negative of each (words swapped, for
    instance); a caption chooses among the images alone. L = (CE([s I T^T | s I N^T]) + CE(s T I^T)) / 2.

    The part "accuracy" is the share of right choices in the batch, over both directions.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> parts = vladapt.build_loss("neg-clip")({**out, "text_negative": torch.eye(4).roll(1, 0)})
        >>> float(parts["accuracy"])
        1.0
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "text_negative", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        loss, accuracy = contrast_with_hard_negatives(
            out["image_features"], out["text_features"], out["text_negative"], out["logit_scale"]
        )
        return {"loss": loss, "accuracy": accuracy}


def contrast_with_hard_negatives(
    image: Tensor, text: Tensor, negative_text: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """NegCLIP's loss: images choose among captions and hard negatives, captions among images.

    Args:
        image: (B, D) unit rows.
        text: (B, D) unit rows, the captions.
        negative_text: (B, D) unit rows, a hard negative of each caption.
        scale: what cosines are multiplied by.

    Returns:
        The loss, and the share of right choices, averaged over both directions, without gradient.
    """
    scaled = scale * image @ text.T  # (B, B)
    hard = scale * image @ negative_text.T  # (B, B)
    of_images = torch.cat([scaled, hard], dim=1)  # (B, 2B)
    right = torch.arange(len(image), device=image.device)
    loss = (F.cross_entropy(of_images, right) + F.cross_entropy(scaled.T, right)) / 2
    hits = [(scores.argmax(dim=1) == right).float().mean() for scores in (of_images.detach(), scaled.detach().T)]
    return loss, (hits[0] + hits[1]) / 2

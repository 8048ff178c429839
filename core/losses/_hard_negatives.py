"""Contrast with hard negative captions, shared by NegCLIP and TripletCLIP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    own = scale * image @ text.T  # (B, B)
    hard = scale * image @ negative_text.T  # (B, B)
    of_images = torch.cat([own, hard], dim=1)  # (B, 2B)
    right = torch.arange(len(image), device=image.device)
    loss = (F.cross_entropy(of_images, right) + F.cross_entropy(own.T, right)) / 2
    hits = [(scores.argmax(dim=1) == right).float().mean() for scores in (of_images.detach(), own.detach().T)]
    return loss, (hits[0] + hits[1]) / 2

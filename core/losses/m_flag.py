"""M-FLAG: images are aligned with a frozen text tower, and kept from collapsing by orthogonality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.loss import Loss


class MFlag(Loss):
    """Projected image and text embeddings are to point one way, while the image embedding's own axes stay independent.

    M-FLAG: Medical Vision-Language Pre-training with Frozen Language Models and Latent Space Geometry Optimization,
    2023, arXiv 2307.08347. The text tower stays frozen. The second term draws the Gram matrix of the image embedding's
    axes, neither normalised nor projected and divided by the batch size, towards the identity. The released code
    divides by the configured batch size; this divides by that of the batch at hand, which is the same but for a last
    batch that is smaller. The text embedding is the tower's own in the shared space, where the paper reads the first
    token of its last layer.

    Args:
        hidden: width of the hidden layer of both projectors.
        width: of the space where image and text are aligned.
        off_diagonal: weight of the entries off the diagonal, 0 or more.
        orthogonality: weight of the second term, 0 or more.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: dims lacks image_width or embed_dim.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_hidden", "text_features"})
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        hidden: int = 2048,
        width: int = 1024,
        off_diagonal: float = 0.0051,
        orthogonality: float = 1.0,
    ):
        super().__init__(dims)
        for name, value in (("hidden", hidden), ("width", width)):
            require(value >= 1, name, value, "give 1 or more")
        for name, value in (("off_diagonal", off_diagonal), ("orthogonality", orthogonality)):
            require(value >= 0, name, value, "give 0 or more")
        self.off_diagonal, self.orthogonality = float(off_diagonal), float(orthogonality)
        self.of_image = projector(self.dim("image_width", "its projector of images"), hidden, width)
        self.of_text = projector(self.dim("embed_dim", "its projector of texts"), hidden, width)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        hidden = out["image_hidden"]
        align = align_loss(self.of_image(hidden), self.of_text(out["text_features"].detach()))
        orthogonal = orthogonal_loss(hidden, self.off_diagonal)
        return {"loss": align + self.orthogonality * orthogonal, "align": align, "orthogonal": orthogonal}


def projector(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers, each with BatchNorm; the last one has no scale and shift of its own."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, out),
        nn.BatchNorm1d(out, affine=False),
    )


def align_loss(images: Tensor, texts: Tensor) -> Tensor:
    """Mean of 4 - 4 cosine of (B, D) images and their texts: the squared distance of unit vectors, counted each way."""
    return (4 - 4 * F.cosine_similarity(images, texts, dim=1, eps=1e-12)).mean()


def orthogonal_loss(latent: Tensor, off_diagonal: float = 0.0051) -> Tensor:
    """Half the squared distance of the Gram matrix of the axes of (B, W), divided by B, from the identity.

    Args:
        latent: (B, W), as it is.
        off_diagonal: weight of the entries off the diagonal.
    """
    gram = latent.T @ latent / len(latent)  # (W, W)
    on = gram.diagonal()
    off = gram.square().sum() - on.square().sum()
    return ((on - 1).square().sum() + off_diagonal * off) / 2

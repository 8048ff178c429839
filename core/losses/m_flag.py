"""M-FLAG: images are aligned with a frozen text tower, and kept from collapsing by orthogonality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.options import option

if TYPE_CHECKING:
    from ..contracts.backbone import Backbone


@dataclass(eq=False, repr=False, kw_only=True)
class MFlag(Loss):
    """Aligns projected image and text embeddings, while the image embedding's own axes are kept independent.

    M-FLAG: Medical Vision-Language Pre-training with Frozen Language Models and Latent Space Geometry Optimization,
    2023, arXiv 2307.08347. The text tower stays frozen. The second term draws the Gram matrix of the image embedding's
    axes, neither normalised nor projected and divided by the batch size, towards the identity. The released code
    divides by the configured batch size; this divides by the actual one, which differs only for a smaller last
    batch. The text embedding is the tower's own in the shared space, where the paper reads the first
    token of its last layer. Images and texts find each other through both projectors.

    Raises:
        CapabilityError: dims lacks image_width or embed_dim.

    Example:
        >>> import torch, vladapt
        >>> loss = vladapt.build_loss("m-flag", {"image_width": 8, "embed_dim": 4}, hidden=16, width=8)
        >>> parts = loss({"image_hidden": torch.randn(6, 8), "text_features": torch.randn(6, 4)})
        >>> sorted(parts)
        ['align', 'loss', 'orthogonal']
    """

    differs: ClassVar[str] = (
        "divided by the actual batch size (released: by the configured one); the text is read in the shared space "
        "(paper: the first token of the last layer)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_hidden", "text_features"})
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})
    finds: ClassVar[bool] = True

    hidden: int = option(2048, "width of the hidden layer of both projectors", low=1, high=65_536)
    width: int = option(1024, "width of the space where image and text are aligned", low=1, high=65_536)
    off_diagonal: float = option(0.0051, "weight of the entries off the diagonal", low=0, high=10_000)
    orthogonality: float = option(1.0, "weight of the orthogonality of the image embedding's axes", low=0, high=10_000)

    def __post_init__(self):
        super().__post_init__()
        image_width = self.dim("image_width", "its projector of images")
        self.of_image = projector(image_width, self.hidden, self.width)
        self.of_text = projector(self.dim("embed_dim", "its projector of texts"), self.hidden, self.width)

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        hidden = out["image_hidden"]
        align = align_loss(self.of_image(hidden), self.of_text(out["text_features"].detach()))
        orthogonal = orthogonal_loss(hidden, self.off_diagonal)
        return {"loss": align + self.orthogonality * orthogonal, "align": align, "orthogonal": orthogonal}

    @property
    def found_dim(self) -> int:
        return self.width

    @torch.no_grad()
    def embed_image(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, `width`) unit."""
        return F.normalize(self.of_image(backbone.hidden(pixels).float()), dim=-1)

    @torch.no_grad()
    def embed_text(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        """(B, L) tokens -> (B, `width`) unit."""
        return F.normalize(self.of_text(backbone.encode_text(tokens).float()), dim=-1)


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

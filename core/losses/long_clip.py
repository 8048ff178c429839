"""Long-CLIP: long captions for the whole image, short ones for its primary components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..backbones.stretching import KeptPositions, stretch_context
from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import ONE, Ranks
from ._info_nce import info_nce
from ._products import products_option


@dataclass(eq=False, repr=False, kw_only=True)
class LongClip(RowLoss):
    """Long-CLIP: Unlocking the Long-Text Capability of CLIP (Zhang et al., 2024, arXiv 2403.15378).

    The image is matched with its long caption, and its projection on the first principal components of the batch's
    image features with a short caption. Both terms are CLIP's loss with label smoothing. Before training, the context
    of the text tower is stretched (77 tokens become 248); its first positions are kept.

    Components are those of the global batch, where the released code takes each process's part; features are not
    normalised again afterwards, as released. The logit scale starts at the backbone's (released: 100).

    Parts: "long", "short".

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("long-clip", components=2, label_smoothing=0)
        >>> sorted(loss({**out, "text_short": torch.eye(4)}))
        ['long', 'loss', 'short']
    """

    differs: ClassVar[str] = (
        "components are those of the global batch (released: of each process); the logit scale starts at the "
        "backbone's (released: 100). Components and stretched positions have fixtures"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "text_short", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    short_weight: float = option(1.0, "weight of the short captions' term", low=0, high=10_000)
    components: int = option(32, "principal components kept of the image features", low=1, high=65_536)
    label_smoothing: float = option(0.1, "share of the target spread over the batch", low=0, below=1)
    keep: int = option(20, "first positions, which are kept and not trained", low=0, high=1_000_000)
    factor: int = option(4, "positions that each of the others becomes; 1 keeps the context length", low=1, high=1000)
    stretch_up_to: int = option(
        77, "longest context to stretch; a longer one has been stretched already", low=0, high=1_000_000
    )
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self._kept: KeptPositions | None = None

    def prepare(self, backbone) -> None:
        """Give the text tower its longer context, and hold its first positions.

        Raises:
            CapabilityError: the backbone's text tower has no table of positions that can be stretched.
            ConfigError: `keep` is not below the number of positions.
        """
        if self.factor > 1 and backbone.context_length <= self.stretch_up_to:
            stretch_context(backbone, self.keep, self.factor)
        self._kept = KeptPositions(backbone, self.keep)

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        image, scale = out["image_features"], out["logit_scale"]
        long = self._smoothed_contrast(image, out["text_features"], scale, ranks)
        primary = primary_components(image, self.components, ranks)
        short = self._smoothed_contrast(primary, out["text_short"], scale, ranks)
        return {"loss": long + self.short_weight * short, "long": long, "short": short}

    def _smoothed_contrast(self, image: Tensor, text: Tensor, scale: Tensor, ranks: Ranks) -> Tensor:
        smoothing = self.label_smoothing
        return info_nce(image, text, scale, label_smoothing=smoothing, ranks=ranks, products=self.products)

    def held_parameters(self) -> list[nn.Parameter]:
        return [] if self._kept is None else [self._kept.table]

    def after_step(self, model: nn.Module | None) -> None:
        """The first positions stay where they are."""
        if self._kept is not None:
            self._kept.restore()


def primary_components(features: Tensor, count: int, ranks: Ranks = ONE) -> Tensor:
    """Features (n, D) as the `count` first principal components of all ranks' N, about their mean, give them back.

    With at most `count` components in all, as in a batch of up to count + 1 rows, they come back as they are.

    The gradient is that of the projection onto the components, which depends on gaps between the components that are
    kept and those that are not; equal ones among the kept, where the gradient of a singular value decomposition is
    infinite, do no harm. Where a kept and a dropped one are equal the projection is not defined, and counts as fixed.
    """
    rows, width = features.shape
    if count >= min(ranks.size * rows - 1, width):
        return features
    mean = ranks.average(features.mean(dim=0))
    return mean + _Projected.apply(features - mean, count, ranks)


class _Projected(torch.autograd.Function):
    """Y = X P, with P the projection onto the first eigenvectors of X^T X, found in float64: it squares X.

    X has the rows of all ranks, of which each projects its own.
    """

    @staticmethod
    def forward(ctx, centred: Tensor, count: int, ranks: Ranks) -> Tensor:
        exact = centred.double()
        sizes, vectors = torch.linalg.eigh(ranks.sum(exact.T @ exact))  # (D,) ascending, (D, D)
        sizes, vectors = sizes.flip(0), vectors.flip(1)
        ctx.count, ctx.ranks = count, ranks
        ctx.save_for_backward(centred, vectors, sizes)
        return (exact @ vectors[:, :count] @ vectors[:, :count].T).to(centred.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        given, vectors, sizes = ctx.saved_tensors
        centred, exact = given.double(), gradient.double()
        kept, dropped = vectors[:, : ctx.count], vectors[:, ctx.count :]  # (D, K), (D, R)
        on_kept, on_dropped = centred @ kept, centred @ dropped  # (n, K), (n, R)
        mixed = ctx.ranks.sum(on_kept.T @ (exact @ dropped) + (exact @ kept).T @ on_dropped)  # (K, R)
        # 1 / (kept - dropped) of all pairs (K, R); towards 0 where they are equal within rounding.
        gaps = sizes[: ctx.count, None] - sizes[None, ctx.count :]
        blur = torch.finfo(sizes.dtype).eps * sizes[0]
        mixed = mixed * (gaps / (gaps.square() + blur.square()).clamp(min=torch.finfo(sizes.dtype).tiny))
        turned = on_kept @ mixed @ dropped.T + on_dropped @ mixed.T @ kept.T  # (n, D)
        return (exact @ kept @ kept.T + turned).to(gradient.dtype), None, None

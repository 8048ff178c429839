"""ALIP: raw and synthetic captions, each sample and pair weighted by how well they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..runtime.ranks import ONE, Ranks
from ._info_nce import log_sums
from ._products import products_option

ROUNDING = 1e-6  # two equal texts are not below a mean of 1, whatever the last digit of their cosine


@dataclass(eq=False, repr=False, kw_only=True)
class Alip(RowLoss):
    """ALIP: Adaptive Language-Image Pre-training with Synthetic Caption (Yang et al., 2023, arXiv 2308.08428).

    CLIP's loss of the image with its raw text, and again with a synthetic caption, each sample weighted. The language
    gate compares the similarity c of both texts with its running mean H_c: W_s = min(1, exp(gamma_s (c - H_c))). The
    description gate compares the image's similarity to each text with that one's mean: W_p = exp(gamma_p (r - H_r))
    where W_s < 1, else 1. L = mean(W_s W_p CE) over both texts, CE being the mean of both directions. No gradient
    passes through weights.

    The means take the batch in before they are compared with, as in the released code, and are kept once per step. They
    start at 1, so that all weights are small for the first hundreds of steps. The buffer "means" (3,) holds those of
    the similarities text to caption, image to text, image to caption.

    Parts: "raw" and "caption" are the two weighted losses; "sample_weight" is the mean of W_s.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> parts = vladapt.build_loss("alip", init_mean=0.5)({**out, "text_synthetic": torch.eye(4)})
        >>> round(parts["sample_weight"].item(), 3)
        1.0
    """

    differs: ClassVar[str] = "none"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "text_synthetic", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    ema: float = option(0.99, "decay of the running means, per step", low=0, below=1)
    gamma_s: float = option(2.0, "sharpness of the language gate, 0 for none", low=0, high=10_000)
    gamma_p: float = option(2.0, "sharpness of the description gate, 0 for none", low=0, high=10_000)
    init_mean: float = option(1.0, "initial value of the running means", low=-100, high=100)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        self.register_buffer("means", torch.full((3,), self.init_mean))
        self._seen: Tensor | None = None

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        image, raw, caption = out["image_features"], out["text_features"], out["text_synthetic"]
        with torch.no_grad():
            sample, of_raw, of_caption = self._weights(image, raw, caption, ranks)
        scale, how = out["logit_scale"], (ranks, self.products)
        parts = {
            "raw": weighted_contrast(image, raw, scale, sample * of_raw, *how),
            "caption": weighted_contrast(image, caption, scale, sample * of_caption, *how),
        }
        return {"loss": parts["raw"] + parts["caption"], **parts, "sample_weight": ranks.average(sample.mean())}

    def _weights(self, image: Tensor, raw: Tensor, caption: Tensor, ranks: Ranks = ONE) -> Tensor:
        """(3, n): of the samples, of the pairs with the raw text, of those with the caption."""
        alike = torch.stack([(raw * caption).sum(dim=1), (image * raw).sum(dim=1), (image * caption).sum(dim=1)])
        mean = ranks.average(alike.mean(dim=1))
        self._seen = self.ema * self.means + (1 - self.ema) * mean.to(self.means.dtype)
        above = alike - self._seen[:, None]  # (3, n)
        below = (above[0] < -ROUNDING) & (self.gamma_s > 0)  # where W_s < 1
        sample = (self.gamma_s * above[0]).exp().clamp(max=1)
        pairs = torch.where(below, (self.gamma_p * above[1:]).exp(), 1.0)  # (2, n)
        return torch.cat([sample[None], pairs])

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """The means move on."""
        if self._seen is not None:
            self.means.copy_(self._seen)


def weighted_contrast(
    image: Tensor, text: Tensor, scale: Tensor, weights: Tensor, ranks: Ranks = ONE, products: str = "fp32"
) -> Tensor:
    """CLIP's loss of (n, D) pairs of each rank, the share of each multiplied by its weight (n,)."""
    of_images, of_texts, positives = log_sums(image, text, scale, ranks, products)
    return ranks.average((weights * ((of_images + of_texts) / 2 - positives)).mean())

"""MedFLIP: MedCLIP's matching of images with most patches left out, and the largest singular value of similarities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import OWN_EQUATIONS
from ..contracts.options import option
from ..contracts.outputs import HIDDEN_PATCHES, Output
from ..runtime.ranks import Ranks
from ._draws import Draws
from .medclip import Medclip

SIGNS = {"plus": 1.0, "minus": -1.0}
SQUARINGS = 14
"""So often a matrix is squared: what is left of a direction whose singular value is 0.999 of the largest is 10^-14."""
REFINED = 2
"""Steps of the power method after it, on the similarities themselves."""


@dataclass(eq=False, repr=False, kw_only=True)
class Medflip(Medclip):
    """MedFLIP: Medical Vision-and-Language Self-supervised Fast Pre-Training with Masked Autoencoder (2024,
    arXiv 2403.04626); patches are left out as in Scaling Language-Image Pre-training via Masking (FLIP; 2022,
    arXiv 2212.00794).

    The image tower sees some patches of each image only, which makes a step cheaper; texts are seen whole. Image and
    text are matched by their findings as in MedCLIP. To this is added

        sign * svd_weight * sigma_1(S) / N

    with sigma_1 the largest singular value of the cosines S of the N images with the N texts. Its gradient is the
    outer product of the two singular vectors. It is 1 where all images and texts of a batch are alike, and 1 / N where
    each image is like its own text and orthogonal to all else; `plus` lowers it in training, `minus` raises it.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_visible": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> findings = {"image_findings": torch.eye(4), "text_findings": torch.eye(4)}
        >>> round(float(vladapt.build_loss("medflip")({**out, **findings})["svd"]), 3)
        0.25
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    experimental: ClassVar[str] = (
        "which function of the largest singular value is learned, its sign and weight, and the share of patches that "
        "is left out were not at hand; ours are options"
    )
    needs: ClassVar[frozenset[str]] = Medclip.needs - {"image_features"} | {"image_visible"}
    outputs: ClassVar[Mapping[str, Output]] = {
        **Medclip.outputs,
        "image_visible": Output("features of the image with some patches left out", fields=HIDDEN_PATCHES),
    }

    masked: float = option(0.5, "share of the patches that is left out; 0: none, which any tower takes", low=0, below=1)
    svd_weight: float = option(0.1, "weight of the largest singular value, 0 for none", low=0, high=10_000)
    svd_sign: str = option("plus", "whether that singular value is lowered (plus) or raised", choices=tuple(SIGNS))

    def __post_init__(self):
        super().__post_init__()
        if not self.masked:
            self.needs = self.needs - {"image_visible"} | {"image_features"}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        images = out["image_visible"] if self.masked else out["image_features"]
        parts = super().compute_rows({**out, "image_features": images}, ranks, progress)
        if not self.svd_weight:
            return parts
        svd = largest_singular_value(images, out["text_features"], ranks)
        return {**parts, "loss": parts["loss"] + SIGNS[self.svd_sign] * self.svd_weight * svd, "svd": svd}

    def prepare(self, backbone: Backbone) -> None:
        if self.masked:
            backbone.need("image_blocks")

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Any) -> dict[str, Tensor]:
        x = backbone.embed_image(batch["pixels"])
        x, _ = Draws.visible_tokens(x, backbone.image_prefix, batch["draws"], 1 - self.masked)
        return {"image_visible": backbone.pool_image(backbone.run_blocks("image", x))}


def largest_singular_value(images: Tensor, texts: Tensor, ranks: Ranks) -> Tensor:
    """sigma_1(S) / N of the cosines S of all ranks' N images and N texts.

    The singular vectors are found without gradients, by squaring a matrix and without waiting for the device; u^T S v
    then has the gradient u v^T of the singular value.

    Args:
        images, texts: (n, D) unit rows of this rank.
    """
    with torch.no_grad():
        all_images, all_texts = ranks.gather(images), ranks.gather(texts)  # (N, D)
        right = _main_direction(all_images, all_texts)
        for _ in range(REFINED):
            left = F.normalize(all_images @ (all_texts.T @ right), dim=0)
            right = F.normalize(all_texts @ (all_images.T @ left), dim=0)
        own = ranks.own(len(images))
    of_images, of_texts = ranks.total(left[own] @ images), ranks.total(right[own] @ texts)  # (D,)
    return of_images @ of_texts / len(all_texts)


def _main_direction(images: Tensor, texts: Tensor) -> Tensor:
    """(N,), about the right singular vector of images @ texts.T."""
    count, width = texts.shape
    if count <= width:
        similarity = images @ texts.T
        power = similarity.T @ similarity  # (N, N)
    else:
        power = (images.T @ images) @ (texts.T @ texts)  # (D, D); times texts.T it is texts.T S^T S
    for _ in range(SQUARINGS):
        power = power / power.norm().clamp(min=torch.finfo(power.dtype).tiny)
        power = power @ power
    column = power.index_select(1, power.norm(dim=0).argmax(dim=0, keepdim=True))[:, 0]
    return column if count <= width else texts @ column

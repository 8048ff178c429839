"""DreamLIP: several sub-captions of a long caption, each a positive, each matched with the patches it describes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Loss
from ..contracts.options import option, require
from ._info_nce import info_nce

NOTHING = -1e8  # a logit that no exponential sees
HIGHEST_SCALE = 100.0
TINY = 1e-10


@dataclass(eq=False, repr=False, kw_only=True)
class Dreamlip(Loss):
    """DreamLIP: Language-Image Pre-training with Long Captions (Zheng et al., 2024, arXiv 2403.17007).

    Each of the N sub-captions of an image is its positive in a CLIP loss, the mean of which is taken; and each has a
    local term: its cosines to the image's patches, brought to 0..1 and cut below a threshold, weigh the patches into
    one feature, which is contrasted with the sub-captions of the whole batch, both ways, with an own learned scale.

    The released code pairs that local feature with the wrong texts: it reads the stack of texts (N, B, D) as if it were
    (B, N, D), so that only B = 1 or N = 1 come out right. Here each sub-caption meets its own image's patches, as in
    the paper; `released_order` restores what the code computes.

    A variant of the released code adds a circle loss (Sun et al., 2020, arXiv 2002.10857) of each image and all
    sub-captions. Without `multi_positive` the global term of the first sub-caption is still divided by N.
    `local_negatives="sample"` has each sub-caption choose among its image's local features. The local scale stays in
    1..100, and patches are needed for the local term alone.

    Parts: "clip" is the first sub-caption's share of the global term and "other_captions" that of the rest, "local",
    "circle".

    Raises:
        ConfigError: all weights are 0.

    Example:
        >>> import torch, vladapt
        >>> image, texts = torch.eye(4), torch.eye(4)[:, None].expand(4, 3, 4)
        >>> out = {"image_features": image, "text_positives": texts, "logit_scale": torch.tensor(10.0)}
        >>> sorted(vladapt.build_loss("dreamlip")({**out, "image_tokens": torch.randn(4, 9, 4)}))
        ['clip', 'local', 'loss', 'other_captions']
    """

    differs: ClassVar[str] = (
        "each sub-caption is compared with the patches of its own image. The released code reads texts (N, B, D) as "
        "(B, N, D) and so pairs them with wrong images: its local term is reproduced only with `released_order=True`, "
        "or on texts permuted inversely"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_positives", "image_tokens", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    clip_weight: float = option(1.0, "weight of the global term, 0 for none", low=0, high=10_000)
    local_weight: float = option(1.0, "weight of the local term, 0 for none", low=0, high=10_000)
    circle_weight: float = option(
        0.0, "weight of the circle loss, 0 for none (0.1 in the released code)", low=0, high=10_000
    )
    multi_positive: bool = option(True, "use all sub-captions in the global term, not only the first")
    sgl_delta: float = option(0.1, "threshold of the local weights; below 0 it is 1 / (number of patches)", below=1)
    sgl_norm: str = option("minmax", "how cosines are scaled to 0..1 over the patches", choices=("minmax", "softmax"))
    local_negatives: str = option(
        "batch",
        "negatives of a local feature: texts of the batch, or of its own sample",
        choices=("batch", "sample"),
    )
    scale_local: float = option(1 / 0.07, "initial value of the learned local scale", low=1, high=HIGHEST_SCALE)
    gamma: float = option(32.0, "sharpness of the circle loss", above=0, high=10_000)
    margin: float = option(0.25, "margin of the circle loss", low=0, high=1)
    released_order: bool = option(False, "pair local features with the wrong texts, as the released code does")

    def __post_init__(self):
        super().__post_init__()
        self.weights = {name: getattr(self, name) for name in ("clip_weight", "local_weight", "circle_weight")}
        some = any(self.weights.values())
        require(some, "clip_weight", self.clip_weight, "one of the three weights must be above 0")
        self.log_scale_local = nn.Parameter(torch.tensor(math.log(self.scale_local)))
        if not self.local_weight:
            self.needs = self.needs - {"image_tokens"}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        image, texts = out["image_features"], out["text_positives"]  # (B, D), (B, N, D)
        parts, weights = {}, self.weights
        loss = image.new_zeros(())
        if weights["clip_weight"]:
            parts.update(self._global_terms(image, texts, out["logit_scale"]))
            loss = loss + weights["clip_weight"] * sum(parts.values())
        if weights["local_weight"]:
            parts["local"] = self._local(out["image_tokens"], texts)
            loss = loss + weights["local_weight"] * parts["local"]
        if weights["circle_weight"]:
            parts["circle"] = circle_loss(image, texts, self.gamma, self.margin)
            loss = loss + weights["circle_weight"] * parts["circle"]
        return {"loss": loss, **parts}

    def _global_terms(self, image: Tensor, texts: Tensor, scale: Tensor) -> dict[str, Tensor]:
        first, *others = texts.unbind(dim=1)  # (B, D) each
        terms = {"clip": info_nce(image, first, scale) / (1 + len(others))}
        if self.multi_positive and others:
            terms["other_captions"] = sum(info_nce(image, text, scale) for text in others) / (1 + len(others))
        return terms

    def _local(self, patches: Tensor, texts: Tensor) -> Tensor:
        if self.released_order:
            texts = texts.transpose(0, 1).reshape(texts.shape)
        texts = F.normalize(texts, dim=-1)
        groups = group_patches(patches, texts, self.sgl_delta, self.sgl_norm)  # (B, N, D)
        scale = self.log_scale_local.exp()
        if self.local_negatives == "batch":
            return info_nce(groups.flatten(0, 1), texts.flatten(0, 1), scale)
        logits = scale * texts @ groups.transpose(1, 2)  # (B, N, N)
        positives = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
        return F.cross_entropy(logits.flatten(0, 1), positives)

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Keeps the local scale in 1..100."""
        self.log_scale_local.clamp_(0, math.log(HIGHEST_SCALE))


def group_patches(patches: Tensor, texts: Tensor, delta: float, norm: str) -> Tensor:
    """What each sentence speaks of in its image: unit features (B, N, D).

    Args:
        patches: (B, P, D).
        texts: (B, N, D) unit sentences.
        delta: patches of a smaller weight are left out; below 0 it is 1 / P.
        norm: "minmax" or "softmax", how cosines become weights.
    """
    patches = F.normalize(patches, dim=-1)
    cosines = texts @ patches.transpose(1, 2)  # (B, N, P)
    if norm == "softmax":
        weights = cosines.softmax(dim=-1)
    else:
        low, high = cosines.amin(dim=-1, keepdim=True), cosines.amax(dim=-1, keepdim=True)
        weights = (cosines - low) / (high - low + TINY)
    threshold = delta if delta >= 0 else 1 / patches.shape[1]
    weights = torch.where(weights < threshold, 0.0, weights)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=TINY)  # no patch left: no feature, and no NaN
    return F.normalize(weights @ patches, dim=-1)


def circle_loss(image: Tensor, texts: Tensor, gamma: float, margin: float) -> Tensor:
    """Each image (B, D) nearer to all of its sub-captions (B, N, D) than to any other's, by a margin.

    Cosines count by how far they are from where they should be; that factor has no gradient.
    """
    cosines = image @ texts.flatten(0, 1).T  # (B, B * N)
    owner = torch.arange(len(image), device=image.device)
    is_positive = owner[:, None] == owner.repeat_interleave(texts.shape[1])  # (B, B * N)
    short = (1 + margin - cosines.detach()).clamp(min=0)
    over = (cosines.detach() + margin).clamp(min=0)
    positive = (-gamma * short * (cosines - (1 - margin))).masked_fill(~is_positive, NOTHING)
    negative = (gamma * over * (cosines - margin)).masked_fill(is_positive, NOTHING)
    return F.softplus(positive.logsumexp(dim=1) + negative.logsumexp(dim=1)).mean()

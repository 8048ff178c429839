"""DreamLIP: several sub-captions of a long caption, each a positive, each with the patches it speaks of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.loss import Loss
from ._info_nce import info_nce

NOTHING = -1e8  # a logit that no exponential sees
HIGHEST_SCALE = 100.0
TINY = 1e-10


class Dreamlip(Loss):
    """DreamLIP: Language-Image Pre-training with Long Captions (Zheng et al., 2024, arXiv 2403.17007).

    Each of the N sub-captions of an image is its positive in a CLIP loss, the mean of which is taken; and each has a
    local term: its cosines to the image's patches, brought to 0..1 and cut below a threshold, weigh the patches into
    one feature, which is contrasted with the sub-captions of the whole batch, both ways, with an own learned scale.

    The released code pairs that local feature with the wrong texts: it reads the stack of texts (N, B, D) as if it were
    (B, N, D), so that only B = 1 or N = 1 come out right. Here each sub-caption meets its own image's patches, as in
    the paper; `released_order` restores what the code computes.

    Args:
        clip_weight: weight of the global term, 0 for none.
        local_weight: weight of the local term, 0 for none; "image_tokens" are needed only for it.
        circle_weight: weight of a circle loss (Sun et al., 2020, arXiv 2002.10857) of each image and all sub-captions,
            a variant of the released code, off by default; its weight there is 0.1.
        multi_positive: whether all sub-captions count in the global term, or the first alone (still divided by N).
        sgl_delta: threshold of the local weights, 0 to below 1; below 0 it is 1 / (number of patches).
        sgl_norm: how cosines come to 0..1: "minmax" over the patches, or "softmax".
        local_negatives: what a local feature is told apart from: the sub-captions of the "batch"; or, of the "sample"
            alone, where each sub-caption chooses among its image's local features.
        scale_local: where the local scale starts; it is kept in 1..100.
        gamma: sharpness of the circle loss.
        margin: of the circle loss, 0 to 1.
        released_order: whether texts are mixed up as above.

    Parts: "clip" is the first sub-caption's share of the global term and "other_captions" that of the rest, "local",
    "circle".

    Raises:
        ConfigError: an option is out of range, or all weights are 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_positives", "image_tokens", "logit_scale"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, 100.0)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        clip_weight: float = 1.0,
        local_weight: float = 1.0,
        circle_weight: float = 0.0,
        multi_positive: bool = True,
        sgl_delta: float = 0.1,
        sgl_norm: str = "minmax",
        local_negatives: str = "batch",
        scale_local: float = 1 / 0.07,
        gamma: float = 32.0,
        margin: float = 0.25,
        released_order: bool = False,
    ):
        super().__init__(dims)
        self.weights = {"clip_weight": clip_weight, "local_weight": local_weight, "circle_weight": circle_weight}
        for name, value in self.weights.items():
            require(value >= 0, name, value, "give 0 or more")
        require(any(self.weights.values()), "clip_weight", clip_weight, "one of the three weights must be above 0")
        require(sgl_delta < 1, "sgl_delta", sgl_delta, "give a threshold below 1")
        require(sgl_norm in ("minmax", "softmax"), "sgl_norm", sgl_norm, "give minmax or softmax")
        require(local_negatives in ("batch", "sample"), "local_negatives", local_negatives, "give batch or sample")
        require(1 <= scale_local <= HIGHEST_SCALE, "scale_local", scale_local, "give 1 to 100")
        require(gamma > 0, "gamma", gamma, "give a number above 0")
        require(0 <= margin <= 1, "margin", margin, "give 0 to 1")
        self.multi_positive, self.local_negatives, self.released_order = multi_positive, local_negatives, released_order
        self.sgl_delta, self.sgl_norm, self.gamma, self.margin = sgl_delta, sgl_norm, gamma, margin
        self.log_scale_local = nn.Parameter(torch.tensor(math.log(scale_local)))
        if not local_weight:
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
        own = torch.arange(logits.shape[1], device=logits.device).repeat(len(logits))
        return F.cross_entropy(logits.flatten(0, 1), own)

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
    own = owner[:, None] == owner.repeat_interleave(texts.shape[1])  # (B, B * N)
    short = (1 + margin - cosines.detach()).clamp(min=0)
    over = (cosines.detach() + margin).clamp(min=0)
    positive = (-gamma * short * (cosines - (1 - margin))).masked_fill(~own, NOTHING)
    negative = (gamma * over * (cosines - margin)).masked_fill(own, NOTHING)
    return F.softplus(positive.logsumexp(dim=1) + negative.logsumexp(dim=1)).mean()

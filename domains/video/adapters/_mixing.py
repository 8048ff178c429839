"""Clips of a batch mixed with each other, pixels and labels alike, as X-CLIP and ViFi-CLIP publish it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ....core.contracts import Part, option
from ....core.training import TrainingTask

WARMUP_SHARE = 5 / 50
"""Of the epochs, as X-CLIP and ViFi-CLIP have it for few shots."""
END_SHARE = 0.01
"""Of the peak rate, where the cosine ends."""


@dataclass(frozen=True, kw_only=True)
class Mixing(Part):
    """How clips are mixed: mixup (Zhang et al., 2017, arXiv 1710.09412) or CutMix (Yun et al., 2019, arXiv 1905.04899)
    on each batch, one of both by chance, and smoothed labels.

    Mixing and smoothing belong to the method's own loss: with `loss` given, or several labels per clip, there is none.
    """

    mixup: float = option(0.8, "alpha of the Beta distribution of mixup shares; 0: no mixup", low=0, high=1000)
    cutmix: float = option(1.0, "alpha of the Beta distribution of CutMix areas; 0: no CutMix", low=0, high=1000)
    cutmix_share: float = option(0.5, "share of the batches that get CutMix where both are on", low=0, high=1)
    label_smoothing: float = option(0.1, "share of the target spread over all classes", low=0, below=1)

    def completed(self, task: TrainingTask, loss: str, classes: int) -> TrainingTask:
        """The task of a training by the method's own loss."""
        options = {loss: {"label_smoothing": self.label_smoothing}, **task.loss_options}
        mix = partial(mixed_clips, classes=classes, alphas=(self.mixup, self.cutmix), share=self.cutmix_share)
        return replace(task, loss_options=options, mix=mix if self.mixup or self.cutmix else None)


def mixed_clips(
    batch: Mapping[str, Any], rng: np.random.Generator, *, classes: int, alphas: tuple[float, float], share: float
) -> dict[str, Any]:
    """A batch with each clip mixed with another one, and for labels (B,) the share of each class (B, C).

    Args:
        batch: "pixels" (B, T, 3, H, W) float, "labels" (B,).
        alphas: of mixup and of CutMix; 0 where there is none.
        share: of batches that get CutMix where both are on.
    """
    pixels, index = batch["pixels"], batch["labels"][:, None]
    labels = pixels.new_zeros(len(pixels), classes).scatter_(1, index, 1)
    cuts = alphas[1] > 0 and (not alphas[0] or rng.random() < share)
    alpha = alphas[1] if cuts else alphas[0]
    kept, partners = rng.beta(alpha, alpha), torch.from_numpy(rng.permutation(len(pixels))).to(pixels.device)
    if cuts:
        top, left, bottom, right = box_of(*pixels.shape[-2:], kept, rng)
        kept = 1 - (bottom - top) * (right - left) / (pixels.shape[-2] * pixels.shape[-1])
        pixels = pixels.clone()
        pixels[..., top:bottom, left:right] = batch["pixels"][partners, ..., top:bottom, left:right]
    else:
        pixels = torch.lerp(pixels[partners], pixels, kept)
    return {**batch, "pixels": pixels, "labels": torch.lerp(labels[partners], labels, kept)}


def box_of(height: int, width: int, kept: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a box anywhere in an image that covers 1 - kept of it, as far as it lies inside."""
    rows, columns = (int(side * math.sqrt(1 - kept)) for side in (height, width))
    x, y = rng.integers(width), rng.integers(height)
    top, bottom = (int(np.clip(y + half, 0, height)) for half in (-(rows // 2), rows // 2))
    left, right = (int(np.clip(x + half, 0, width)) for half in (-(columns // 2), columns // 2))
    return top, left, bottom, right

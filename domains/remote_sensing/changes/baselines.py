"""What needs no training: a threshold on how far the frozen tower's features, or the pixels, of two dates are apart.

Pixels are compared by change vector analysis, the length of the difference of all bands (Malila, "Change vector
analysis: an approach for detecting forest changes with Landsat", 1980), as they are and after each date was brought to
mean 0 and deviation 1 in each band. Features are compared by their cosine, at each depth of the tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....registry import MODELS
from .target import CHANGED, UNCHANGED
from .training import tower_config

BINS = 2000
SMALL = 1e-6


@dataclass(frozen=True)
class Threshold:
    """What is called change.

    Args:
        level: which of several scores it is on.
        value: least score that is change.
        f1: on what it was chosen on.
    """

    level: int
    value: float
    f1: float

    def to_json(self) -> dict[str, Any]:
        return {"level": self.level, "value": self.value, "f1": self.f1}


class ScoreCounts:
    """How many changed and unchanged pixels have which score, from which the best threshold follows.

    Memory is that of the bins, however many pixels there are.
    """

    def __init__(self) -> None:
        self._counts: np.ndarray = np.zeros((0, 2, BINS + 1), np.int64)

    def add(self, levels: list[np.ndarray], labels: np.ndarray) -> None:
        """Scores of some pixels.

        Args:
            levels: (..) scores in 0..1 of each level.
            labels: (..) 0, 1, or 255 for ignored ones.
        """
        if not len(self._counts):
            self._counts = np.zeros((len(levels), 2, BINS + 1), np.int64)
        for level, scores in enumerate(levels):
            bins = np.floor(scores * BINS).astype(np.int64).clip(0, BINS)
            for label in (UNCHANGED, CHANGED):
                self._counts[level, label] += np.bincount(bins[labels == label], minlength=BINS + 1)

    def best(self) -> Threshold:
        """The level and threshold of the highest F1; 0.5 of the first where nothing changed."""
        above = self._counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]  # (L, 2, bins) pixels at or above
        hits, total = above[:, CHANGED], above[:, CHANGED, :1]
        if not len(self._counts) or not total.any():
            return Threshold(0, 0.5, float("nan"))
        f1 = 2 * hits / np.maximum(hits + above[:, UNCHANGED] + total, 1)
        level, place = np.unravel_index(int(f1.argmax()), f1.shape)
        return Threshold(int(level), float(place / BINS), float(f1[level, place]))


class DateDistances:
    """Distances of two dates by a frozen tower and by pixels.

    Args:
        facts: what a plan says of the tower: "backbone", its spec, and "bands", those that it was told of, or None.
            A tower of fewer channels than the dates have sees the first ones.
    """

    NAMES = ("feature_difference", "image_difference")

    def __init__(self, facts: Mapping[str, Any], device: torch.device):
        tower = tower_config(facts["backbone"]) | {"channels": facts.get("bands")}
        self.tower: nn.Module = MODELS.build(tower).to(device).eval()
        of_tower: Any = self.tower
        self.mean, self.std = (
            torch.tensor(values, device=device).view(-1, 1, 1)
            for values in (of_tower.backbone.image_mean, of_tower.backbone.image_std)
        )

    @torch.no_grad()
    def distances(self, inputs: Tensor) -> dict[str, list[np.ndarray]]:
        """Of each baseline the scores (B, H, W) in 0..1 at each level.

        Args:
            inputs: (B, 2, C, H, W) in 0..1.
        """
        seen = (inputs[:, :, : len(self.mean)].flatten(0, 1) - self.mean) / self.std
        maps = self.tower(seen)
        features = [_upsampled(cosine_distance(level, len(inputs)), inputs.shape[-2:]) for level in maps]
        pixels = [vector_length(inputs), vector_length(_standardised(inputs))]
        levels = {"feature_difference": features, "image_difference": pixels}
        return {name: [level.cpu().numpy() for level in of] for name, of in levels.items()}


def cosine_distance(maps: Tensor, pairs: int) -> Tensor:
    """(B, h, w) sqrt((1 - cosine) / 2) of maps (2 B, D, h, w), whose rows alternate between the dates."""
    before, after = maps.unflatten(0, (pairs, 2)).unbind(dim=1)
    return ((1 - F.cosine_similarity(before, after, dim=1)) / 2).clamp(0, 1).sqrt()


def vector_length(inputs: Tensor) -> Tensor:
    """(B, H, W) length x of the difference of all bands, as x / (1 + x)."""
    length = (inputs[:, 0] - inputs[:, 1]).square().sum(dim=1).sqrt()
    return length / (1 + length)


def _standardised(inputs: Tensor) -> Tensor:
    """Each band of each date of mean 0 and deviation 1."""
    mean, std = inputs.mean(dim=(-2, -1), keepdim=True), inputs.std(dim=(-2, -1), keepdim=True, correction=0)
    return (inputs - mean) / (std + SMALL)


def _upsampled(scores: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(scores[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]

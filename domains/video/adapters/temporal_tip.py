"""Temporal Tip: a cache of clips, compared frame by frame at the same relative time; nothing is trained.

Take it for clips with few shots, where the order of frames matters and nothing may be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Adapter, Batch, ClassWeighting, FeatureSet, FitReport, Ties, has, option
from ....core.data import Selection, selection_split
from ....core.metrics import best_setting
from ._frames import average_of_unit, valid_first

REFERENCE_SCALE = 100.0
"""The logit scale that alphas of Tip-Adapter were published for."""
BETA, ALPHA = 1.0, 1.17
HIGHEST_BETA, HIGHEST_ALPHA, LOWEST = 7.0, 3.0, 0.1
STEPS = {"beta": 70, "alpha": 15}


@dataclass(eq=False, kw_only=True)
class TemporalTip(Adapter):
    """Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (Zhang et al., 2022, arXiv 2207.09519),
    over clips. What is compared of two clips is ours.

    logits = s x W^T + alpha s/100 exp(-beta (1 - a(x, F))) L, with x the mean of the unit frames, W the class texts, s
    the logit scale and L the labels of the support. a(x, k) is the mean over `points` moments of the cosines between
    the frames of two clips at the same share of their length, between two frames by linear interpolation; a clip and
    its reverse are far apart by it. `match=mean` takes the cosine of the means instead, and is Tip-Adapter on averaged
    frames.

    Beta and alpha are searched on val, without val on held-out clips of the support, or with fewer than 4 shots set to
    the defaults 1 and 1.17. Classes with unequal numbers of clips count alike (`class_weight`), and among settings that
    score alike the middle one is taken (`ties`).

    Raises:
        ConfigError: an option out of range.
        CapabilityError: several labels per clip, or samples without parts.

    Example:
        >>> adapter = build_adapter("temporal-tip", alpha=2.0)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = "no fixture: with `match=mean` checked against tip-adapter on averaged frames"
    needs: ClassVar[frozenset[str]] = frozenset({"parts"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"parts"})
    text_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "keys", "values", "beta_", "alpha_")

    weighting = has(ClassWeighting)
    choice = has(Ties)
    match: str = option("time", "what is compared: frames at the same time, or their means", choices=("time", "mean"))
    points: int = option(8, "moments at which clips are compared", low=1, high=1024)
    alpha: float | None = option(None, "weight of the cache; none to search it", low=0)
    beta: float | None = option(None, "sharpness of the cache; none to search it", low=0)

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.logit_scale = classifier.weights, classifier.logit_scale
        selection = selection_split(support, val, seed)
        self._remember(selection.train)
        chosen, words, score = self._choose(selection)
        self._remember(support)
        self.beta_, self.alpha_ = chosen["beta"], chosen["alpha"]
        return FitReport(self.name, chosen, words, score)

    def _remember(self, support: FeatureSet) -> None:
        self.keys = self._described(support)  # (N, points * D)
        self.values = F.one_hot(support.labels, len(self.text)).float()  # (N, C)
        weights = self.weighting.class_weights(support.labels, len(self.text))
        self.values = self.values if weights is None else self.values * weights.to(self.values)

    def _choose(self, selection: Selection) -> tuple[dict[str, float], str, float | None]:
        """Beta and alpha, on what they were chosen, and the score there or None."""
        given = {"beta": self.beta, "alpha": self.alpha}
        default = {"beta": BETA, "alpha": ALPHA}
        if None not in given.values() or selection.val is None:
            taken = {name: default[name] if value is None else value for name, value in given.items()}
            return taken, selection.words if None in given.values() else "given as options", None
        ends = {"beta": HIGHEST_BETA, "alpha": HIGHEST_ALPHA}
        grids = [
            np.linspace(LOWEST, ends[name], STEPS[name]).tolist() if value is None else [value]
            for name, value in given.items()
        ]
        scores = self._grid(selection.val, *grids)
        place = best_setting(scores, self.choice.ties)
        taken = {name: float(grid[i]) for name, grid, i in zip(given, grids, place)}
        return taken, selection.words, float(scores[place])

    def _grid(self, val: FeatureSet, betas: Sequence[float], alphas: Sequence[float]) -> np.ndarray:
        """(betas, alphas) scores on val."""
        affinity, zero_shot = self._described(val) @ self.keys.T, self._zero_shot(val)
        scores = np.empty((len(betas), len(alphas)))
        for i, beta in enumerate(betas):
            cache = self._cache(affinity, beta)
            for j, alpha in enumerate(alphas):
                scores[i, j] = self.weighting.val_score(zero_shot + alpha * cache, val.labels)
        return scores

    def _described(self, clips: FeatureSet | Batch) -> Tensor:
        """(B, points * D), or (B, D): unit rows whose products are the similarities of clips."""
        frames, mask = valid_first(clips.unit_parts, clips.parts_mask)
        if self.match == "mean":
            return average_of_unit(frames, mask)
        moments = F.normalize(at_moments(frames, mask, self.points), dim=-1)
        return moments.flatten(1) / self.points**0.5

    def _zero_shot(self, clips: FeatureSet | Batch) -> Tensor:
        return self.logit_scale * average_of_unit(clips.parts, clips.parts_mask) @ self.text.T  # (B, C)

    def _cache(self, affinity: Tensor, beta: float) -> Tensor:
        """(B, N) similarities -> (B, C)."""
        return self.logit_scale / REFERENCE_SCALE * (-beta * (1 - affinity)).exp() @ self.values

    def _logits(self, batch: Batch) -> Tensor:
        cache = self._cache(self._described(batch) @ self.keys.T, self.beta_)
        return self._zero_shot(batch) + self.alpha_ * cache


def at_moments(frames: Tensor, mask: Tensor, points: int) -> Tensor:
    """Frames (B, T, D), those that are there in front -> (B, points, D) at even shares of each clip's length, from its
    first frame to its last, between two frames by linear interpolation."""
    last = mask.sum(dim=1, keepdim=True) - 1  # (B, 1)
    shares = torch.linspace(0, 1, points, device=frames.device) if points > 1 else frames.new_full((1,), 0.5)
    place = shares * last  # (B, points)
    before = place.floor().long()
    after = torch.minimum(before + 1, last)
    weight = (place - before)[..., None]
    picked = [frames.gather(1, index[..., None].expand(-1, -1, frames.shape[2])) for index in (before, after)]
    return torch.lerp(*picked, weight)

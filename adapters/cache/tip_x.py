"""TIP-X: a cache, of shots or of images found by class name, that also compares images' class distributions.

Take it with few shots, or with none where images found by the class names are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Batch, ClassWeighting, FeatureSet, FitReport, StoredViews, Ties, has, option, require
from ...core.data import Selection, selection_split
from ..support_folder import support_folder_images
from ._cache_model import (
    CHUNK_ELEMENTS,
    REFERENCE_SCALE,
    Axis,
    CacheModel,
    cache_keys,
    cache_logits,
    choose,
    grid,
    keys_note,
    one_hot_values,
)
from ._two_terms import search_two_terms

AXES = ("beta", "alpha", "gamma")
STARTS = (1.0, 0.1, 0.1)  # where the published grids begin


@dataclass(eq=False, kw_only=True)
class TipX(CacheModel):
    """SuS-X: Training-Free Name-Only Transfer of Vision-Language Models (Udandarao, Gupta and Albanie, 2022,
    arXiv 2211.16198).

    logits = s x W^T + s/100 (gamma phi L + alpha exp(-beta (1 - x F^T)) L), with s the logit scale (100 where the
    weights were published), x the unit image feature, F the unit keys and L their one-hot labels. phi compares
    signatures softmax(x W^T / T), an image's spread over the classes: phi = -scale(KL(image || key)), where scale maps
    the least and largest divergence to the least and largest cosine of image and key.

    With a support folder (SuS: images retrieved or generated for the class names) the cache holds its images, and the
    shots only serve to choose the weights; without one it holds the shots. Alpha, beta and gamma are searched on val,
    else on shots that are not in the cache: all of them where it holds only a folder, else floor(K/4) per class held
    out; with fewer than 4 shots the defaults are used (ours: none were published).

    Where it differs from the released code: the least and largest divergence and cosine are those of the images on
    which the weights were chosen (without such images: of pairs of different keys) and then stay fixed. The released
    code takes the divergences of the test images, so that an image's logits depend on which others are tested with it,
    and maps them to the cosines of val. Every image is compared; the released code skips the last rows, which do not
    fill a hundred. phi L adds up the keys of a class, which is only meaningful where all classes have equally many:
    here it is the mean over the class's keys times the mean number of keys per class, which is the same where they are
    equal; a class without keys counts as unlike as the most unlike one.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    Resources:
        support_folder: `FeatureSet` of labelled images, optional.

    Raises:
        ConfigError: an option is out of range.
        DataError: the support folder does not fit the classes.

    Example:
        >>> adapter = build_adapter("tip-x", beta=5.5, search_step=(20, 10, 10))
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "the ranges of divergences and cosines come from the images that the weights were chosen on, and are kept; the "
        "keys of a class are averaged, so that unequal shots are fair. The released code scales the divergences of "
        "test images by their own range to that of the cosines of val, which a variable still holds; logits of test "
        "images are compared with that range set by hand, and differ without it"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    optional: ClassVar[frozenset[str]] = frozenset({"support_folder"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "keys", "values", "signatures", "mean_keys", "ranges",
        "beta_", "alpha_", "gamma_", "of_shots",
    )  # fmt: skip
    later_state: ClassVar[dict[str, bool]] = {"of_shots": False}

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    alpha: float | None = option(None, "weight of the cache; none to search it", low=0)
    beta: float | None = option(None, "sharpness of the cache; none to search it", low=0)
    gamma: float | None = option(None, "weight of the signatures; none to search it", low=0)
    search_scale: tuple[float, float, float] = option(
        (50, 50, 30),
        "upper ends (beta, alpha, gamma) of the grid, which starts at 1,0.1,0.1",
        above=0.1,
    )
    search_step: tuple[int, int, int] = option(
        (200, 20, 50), "points (beta, alpha, gamma) of the grid", low=1, high=100_000
    )
    temperature: float = option(0.5, "divisor of the cosines before the softmax of a signature", above=0)
    use_shots: bool = option(False, "whether the cache holds the shots as well as the images of a support folder")

    def __post_init__(self):
        super().__post_init__()
        require(
            self.search_scale[0] > 1,
            "search_scale",
            self.search_scale,
            "the grid of beta starts at 1; give a larger end",
        )

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.take_texts(classifier)
        folder = support_folder_images(resources, support, classifier)
        self.of_shots = folder is None
        selection = self._selection(folder, support, val, seed)
        self._remember(folder, selection.train)
        self.ranges = self._ranges(None if selection.val is None else selection.val.unit)

        def search(alphas, betas, gammas):
            unit = selection.val.unit
            zero_shot = self.zero_shot(unit)
            return search_two_terms(
                unit, selection.val.labels, zero_shot, self.keys, self.values, self._likeness(unit),
                alphas, betas, gammas, factor=self.logit_scale / REFERENCE_SCALE,
                balanced=self.weighting.balanced, ties=self.choice.ties,
            )  # fmt: skip

        chosen, words, score = choose(self._axes(), selection, search)
        self._remember(folder, support)
        self.alpha_, self.beta_, self.gamma_ = chosen["alpha"], chosen["beta"], chosen["gamma"]
        return FitReport(self.name, chosen, words, score, notes=self._notes(folder, support))

    def _selection(self, folder: FeatureSet | None, support: FeatureSet, val, seed: int) -> Selection:
        """As elsewhere, but shots that are not keys need not be held out of the keys."""
        selection = selection_split(support, val, seed)
        if folder is None or self.use_shots or (selection.val is not None and not selection.held_out):
            return selection
        return Selection(support, support, f"the {len(support)} shots, none of them in the cache")

    def _axes(self) -> tuple[Axis, ...]:
        """In the order of the published loops. Defaults: Tip-Adapter's, and a gamma too small to decide alone."""
        given = dict(zip(AXES, zip(self.search_scale, self.search_step, STARTS)))
        default = {"alpha": 1.17, "beta": 1.0, "gamma": 3.0}
        return tuple(
            Axis(name, getattr(self, name), default[name], grid(*given[name])) for name in ("alpha", "beta", "gamma")
        )

    def _remember(self, folder: FeatureSet | None, shots: FeatureSet) -> None:
        """Keys, values, and each class's mean signature."""
        parts = [part for part in (folder, shots if folder is None or self.use_shots else None) if part is not None]
        self.keys = torch.cat([cache_keys(part, self.pool.views) for part in parts])  # (N, D)
        one_hot = torch.cat([one_hot_values(part, len(self.text)) for part in parts])  # (N, C)
        counts = one_hot.sum(dim=0)  # (C,)
        self.signatures = torch.zeros(len(self.text), len(self.text), device=self.keys.device)
        for rows in self._key_blocks():
            self.signatures += one_hot[rows].T @ self._log_signature(self.keys[rows])
        self.signatures /= counts.clamp(min=1)[:, None]  # (C, C): mean over a class's keys
        self.mean_keys = float(counts.sum() / (counts > 0).sum())
        weights = self.weighting.class_weights(one_hot.argmax(dim=1), len(self.text))
        self.values = one_hot if weights is None else one_hot * weights

    def _ranges(self, queries: Tensor | None) -> list[float]:
        """Least and largest divergence, least and largest cosine, of queries and keys or of keys among themselves."""
        pairs = _Extremes(), _Extremes()
        others = self.keys if queries is None else queries
        log_signatures = self._log_signature(others)  # (V, C)
        for rows in self._key_blocks(len(others)):
            themselves = rows[:, None] == torch.arange(len(others), device=rows.device) if queries is None else None
            pairs[0].see(divergences(log_signatures, self._log_signature(self.keys[rows])).T, themselves)
            pairs[1].see(self.keys[rows] @ others.T, themselves)
        return [*pairs[0].ends, *pairs[1].ends]

    def _key_blocks(self, others: int = 1) -> tuple[Tensor, ...]:
        """Numbers of keys, as many at once as have a bounded matrix with classes or `others`."""
        rows = max(1, CHUNK_ELEMENTS // max(len(self.text), others))
        return torch.arange(len(self.keys), device=self.keys.device).split(rows)

    def _log_signature(self, unit: Tensor) -> Tensor:
        """(B, C) log of C softmax(unit text^T / T): relative to an even spread, so that it is small and exact."""
        scores = unit @ self.text.T / self.temperature
        scores = scores - scores.mean(dim=-1, keepdim=True)
        return scores - scores.exp().mean(dim=-1, keepdim=True).log()

    def _likeness(self, unit: Tensor) -> Tensor:
        """(B, C): phi L, with the divergences of a class's keys averaged before anything (B, N) is made."""
        divergence = divergences(self._log_signature(unit), self.signatures)  # (B, C)
        least, most, low, high = self.ranges
        absent = self.values.sum(dim=0) == 0
        divergence = torch.where(absent, most, divergence)
        slope = (high - low) / (most - least) if most > least else 0.0
        return -self.mean_keys * (slope * (divergence - least) + low)

    def _notes(self, folder: FeatureSet | None, support: FeatureSet) -> list[str]:
        if folder is None:
            return ["the cache holds the shots; no support folder was given", keys_note(support, self.pool.views)]
        beside = f" and the {len(support)} shots" if self.use_shots else "; the shots are not in it"
        images = f"the {len(folder)} images of the support folder"
        return [f"the cache holds {images}{beside}", keys_note(folder, self.pool.views)]

    def _logits(self, batch: Batch) -> Tensor:
        unit = batch.unit
        zero_shot = self.zero_shot(unit)  # (B, C)
        cache = cache_logits(unit, self.keys, self.values, self.beta_)  # (B, C)
        factor = self.logit_scale / REFERENCE_SCALE
        return zero_shot + factor * (self.gamma_ * self._likeness(unit) + self.alpha_ * cache)

    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor | None:
        """Of the cache of the shots; signatures speak for classes as wholes, and a support folder has other images."""
        return super().example_parts(batch, classes) if self.of_shots else None


def divergences(images: Tensor, keys: Tensor) -> Tensor:
    """(B, N) KL(image || key) of signatures, as one matrix product: nothing of size B x N x C is made.

    Args:
        images: (B, C) logs of signatures, up to one constant for all of both.
        keys: (N, C) likewise; a mean of them gives the mean divergence.
    """
    spread = F.softmax(images, dim=-1)
    return (spread * images).sum(dim=-1, keepdim=True) - spread @ keys.T


class _Extremes:
    """The least and the largest of all numbers seen."""

    def __init__(self):
        self.low, self.high = float("inf"), float("-inf")

    def see(self, numbers: Tensor, left_out: Tensor | None) -> None:
        mask = torch.zeros_like(numbers, dtype=torch.bool) if left_out is None else left_out
        self.low = min(self.low, float(numbers.masked_fill(mask, float("inf")).min()))
        self.high = max(self.high, float(numbers.masked_fill(mask, float("-inf")).max()))

    @property
    def ends(self) -> tuple[float, float]:
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)

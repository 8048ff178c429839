"""Tip-Adapter: a key-value cache of the support, added to zero-shot; nothing is trained.

Take it for an answer in a second with few shots, where keys of another tower are at hand, or as the usual baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...core.contracts import ClassWeighting, FitReport, StoredViews, Ties, has, option
from ...core.data import selection_split
from ..published_sets import SETS, preset_option
from ._cache_model import (
    CacheModel,
    cache_keys,
    cache_values,
    choose,
    grid_axes,
    keys_note,
    search_as,
    search_notes,
)
from ._presets import TIP_SETTINGS

AXES = ("beta", "alpha")


@dataclass(eq=False, kw_only=True)
class TipAdapter(CacheModel):
    """Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification (Zhang et al., 2022, arXiv 2207.09519).

    logits = s x W^T + alpha s/100 exp(-beta (1 - x F^T)) L, with s the logit scale (100 where alphas were published),
    x the unit image feature, F the unit keys and L the one-hot (or multi-hot) labels of the support.

    Keys are the normalised mean of the raw features of augmented views where the support has views (published: 10),
    else the normalised feature. Beta and alpha are searched on val (top-1 accuracy, or macro AUROC with several labels
    per image); without val, on floor(K/4) images per class held out of the support, whose keys the cache lacks
    meanwhile; with fewer than 4 shots the defaults are used. The released ImageNet script searches on test, which is
    not offered.

    A preset is a set of the few-shot protocol in any usual spelling ("dtd", "Flowers102"): its search scale and alpha.
    The grid starts at 0.1.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    With more than 4,096 keys the sums exp(-beta (1 - x F^T)) L are interpolated between a dozen betas while searching,
    to 1e-6 of what an image's nearest key adds; a note says so. The fitted model computes them as they are.

    Keys and queries may be of another backbone than the texts (`--resource keys=dinov2`): x F^T is then of its unit
    features, as they are, without views.

    Resources:
        keys: `FurtherBackbone`, of the same images.

    Raises:
        ConfigError: an option is out of range.
        UnknownNameError: no such preset.
        DataError: the backbone of the keys has no features of an image.

    Example:
        >>> adapter = build_adapter("tip-adapter", alpha=2.0)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "hyper-parameters are never searched on test (the released ImageNet script does); without val, they are "
        "searched on held-out support images"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    multilabel: ClassVar[bool] = True
    text_free: ClassVar[bool] = True
    optional: ClassVar[frozenset[str]] = frozenset({"keys"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "keys", "values", "beta_", "alpha_", "keyed",
    )  # fmt: skip
    later_state: ClassVar = {"keyed": False}

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    alpha: float | None = option(None, "weight of the cache; none to search it", low=0)
    beta: float | None = option(None, "sharpness of the cache; none to search it", low=0)
    search_scale: tuple[float, float] | None = option(
        None, "upper ends (beta, alpha) of the grid; none: the preset's, or 7,3", above=0.1
    )
    search_step: tuple[int, int] = option((200, 20), "points (beta, alpha) of the grid", low=1, high=100_000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.take_texts(classifier)
        support, rows, notes = self.take_keys(resources, support)
        selection = selection_split(support, val, seed)
        self._remember(rows(selection.train))
        axes = grid_axes(self, AXES, TIP_SETTINGS[self.preset])
        chosen, words, score = choose(axes, selection, search_as(self, selection, rows))
        notes = [*(notes or [keys_note(support, self.pool.views)]), *search_notes(self.keys, self.values, score)]
        self._remember(rows(support))
        self.beta_, self.alpha_ = chosen["beta"], chosen["alpha"]
        return FitReport(self.name, chosen, words, score, notes=notes)

    def _remember(self, support) -> None:
        self.keys = cache_keys(support, self.pool.views)  # (N, D)
        weights = self.weighting.class_weights(support.labels, len(self.text))
        self.values = cache_values(support, len(self.text), weights)  # (N, C)

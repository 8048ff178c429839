"""APE: a cache on discriminative channels, each key weighted by how far its zero-shot prediction is from its label.

Take it for an answer in a second with few shots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Batch, ClassWeighting, FitReport, StoredViews, Ties, has, option, require
from ...core.data import selection_split
from ..published_sets import SETS, preset_option
from ._cache_model import (
    REFERENCE_SCALE,
    CacheModel,
    beyond,
    cache_keys,
    cache_values,
    choose,
    grid_axes,
    keys_note,
    one_hot_values,
    search_cache,
    search_notes,
)
from ._presets import APE_SETTINGS, APE_WIDTH

AXES = ("beta", "alpha", "gamma")
SMOOTHING = 1e-6  # in the logarithm's numerator and denominator, as released


@dataclass(eq=False, kw_only=True)
class APE(CacheModel):
    """Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement (Zhu et al., 2023,
    arXiv 2304.01195).

    logits = s x W^T + alpha s/100 exp(-beta (1 - x_Q F_Q^T)) (L exp(gamma D)), with s the logit scale (100 where alphas
    were published). Q are the channels of largest -w[0] similarity + w[1] variance between classes, over text and
    support; x_Q, F_Q and W_Q are the features on those channels, normalised again; D is the KL divergence, in bits, of
    a key's label from softmax(F_Q W_Q^T), which has no temperature.

    Beta, alpha and gamma are searched on val, else on images held out of the support, as in tip-adapter. Unequal shots
    are averaged per class before classes are compared (the released code assumes equal ones; with them the result is
    the same). The released ImageNet setting searches on test and is not offered.

    A preset is a set of the few-shot protocol in any usual spelling ("dtd", "Flowers102").

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    Raises:
        ConfigError: an option is out of range, or `top_q` is above the features' width.
        UnknownNameError: no such preset.

    Example:
        >>> adapter = build_adapter("ape", top_q=16)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "unequal shots are averaged per class (the released code assumes equal ones); nothing is searched on test"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "channels", "keys", "values", "exponent", "beta_", "alpha_", "gamma_",
    )  # fmt: skip

    pool = has(StoredViews, published_crop=(0.5, 1.0))
    weighting = has(ClassWeighting)
    choice = has(Ties)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    alpha: float | None = option(None, "weight of the cache; none to search it", low=0)
    beta: float | None = option(None, "sharpness of the cache; none to search it", low=0)
    gamma: float | None = option(None, "strength of the KL weighting; none to search it", low=0)
    top_q: int | None = option(
        None, "channels kept; none: the preset's share of the width, or 0.7 of it", low=1, high=1_048_576
    )
    w: tuple[float, float] | None = option(
        None,
        "weights of (similarity, variance); none: the preset's, or 0.5,0.5",
    )
    search_scale: tuple[float, float, float] | None = option(
        None, "upper ends (beta, alpha, gamma) of the grid; none: the preset's, or 7,7,1", above=0.1
    )
    search_step: tuple[int, int, int] | None = option(
        None, "points (beta, alpha, gamma) of the grid; none: the preset's, or 200,20,20", low=1, high=100_000
    )

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.take_texts(classifier)
        selection = selection_split(support, val, seed)
        self._remember(selection.train)

        def search(betas, alphas, gammas):
            unit, labels = selection.val.unit, selection.val.labels
            return search_cache(
                self._refine(unit),
                labels,
                self.zero_shot(unit),
                self.keys,
                self.values,
                betas,
                alphas,
                gammas,
                beyond=beyond(self, alphas),
                exponent=self.exponent,
                alpha_factor=self.logit_scale / REFERENCE_SCALE,
                balanced=self.weighting.balanced,
                ties=self.choice.ties,
            )

        chosen, words, score = choose(grid_axes(self, AXES, APE_SETTINGS[self.preset]), selection, search)
        searched = search_notes(self.keys, self.values, score)
        self._remember(support)
        self.beta_, self.alpha_, self.gamma_ = chosen["beta"], chosen["alpha"], chosen["gamma"]
        notes = [keys_note(support, self.pool.views), f"{len(self.channels)} of {support.dim} channels kept", *searched]
        return FitReport(self.name, chosen, words, score, notes=notes)

    def _remember(self, support) -> None:
        """Channels, refined keys, values and each key's divergence."""
        setting = APE_SETTINGS[self.preset]
        keys = cache_keys(support, self.pool.views)  # (N, D)
        one_hot = one_hot_values(support, len(self.text))  # (N, C)
        top_q = self.top_q or max(1, round(setting.top_q / APE_WIDTH * support.dim))
        self.channels = select_channels(channel_criterion(self.text, self.w or setting.w, keys, one_hot), top_q)
        self.keys = self._refine(keys)  # (N, Q)
        guess = (self.keys @ self._refine(self.text).T).softmax(dim=-1)  # (N, C)
        self.exponent = (one_hot * torch.log2((one_hot + SMOOTHING) / (guess + SMOOTHING))).sum(dim=-1)  # (N,)
        weights = self.weighting.class_weights(support.labels, len(self.text))
        self.values = cache_values(support, len(self.text), weights)  # (N, C)

    def _refine(self, features: Tensor) -> Tensor:
        """(.., Q) unit rows of the kept channels."""
        return F.normalize(features[:, self.channels], dim=-1)

    def queries(self, batch: Batch) -> Tensor:
        return self._refine(batch.unit)

    def class_values(self) -> Tensor:
        return self.values * torch.exp(self.gamma_ * self.exponent)[:, None]


def select_channels(criterion: Tensor, top_q: int) -> Tensor:
    """(Q,) int64 indices of the channels of largest criterion, the largest first."""
    require(1 <= top_q <= len(criterion), "top_q", top_q, f"give 1 to {len(criterion)}, the width of the features")
    return criterion.topk(top_q).indices


def channel_criterion(text: Tensor, w: tuple[float, float], keys: Tensor | None = None, values: Tensor | None = None):
    """-w[0] * inter-class similarity + w[1] * inter-class variance of each channel.

    Args:
        text: (C, D) class weights.
        w: how much similarity and variance count.
        keys: (N, D) image features, or None for text alone.
        values: (N, C) one-hot classes of the keys.

    Returns:
        (D,) float64.
    """
    similarity = channel_similarity(text, keys, values)
    return -w[0] * similarity + w[1] * text.double().var(dim=0)


def channel_similarity(text: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
    """Mean over ordered pairs of classes and over their samples (text and keys) of the products of a channel.

    The paper's sum over pairs of samples factors: with s_i the mean of class i's samples, it is
    ((sum_i s_i)^2 - sum_i s_i^2) / (C (C - 1)). That holds for unequal shots too.

    Returns:
        (D,) float64.
    """
    means = text.double()  # (C, D)
    if keys is not None:
        shots = values.double().sum(dim=0)[:, None]
        means = (means + values.double().T @ keys.double()) / (shots + 1)
    pairs = len(text) * (len(text) - 1)
    return (means.sum(dim=0).square() - means.square().sum(dim=0)) / pairs

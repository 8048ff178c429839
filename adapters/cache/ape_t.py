"""APE-T: a residual per class on discriminative channels, added to text and keys, and a learned weight per key.

Take it where `ape` would do and some seconds of training do not matter: it learns fewer numbers than `tip-adapter-f`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts import Batch, ClassWeighting, FitReport, Ties, TrainingViews, has, option
from ...core.data import selection_split
from ...core.training import label_loss, training_features, views_of_training
from ..published_sets import SETS, preset_option
from ._cache_model import (
    CacheModel,
    cache_keys,
    cache_values,
    grid_axes,
    keys_note,
    one_hot_values,
)
from ._presets import APE_SETTINGS, APE_WIDTH
from ._training import SELECT, CacheSchedule, train_and_choose, train_keeping_best
from .ape import channel_criterion, select_channels

AXES = ("beta", "alpha")
CRITERIA = ("text", "image_text")


@dataclass(eq=False, kw_only=True)
class APET(CacheModel):
    """APE-T, of Not All Features Matter (Zhu et al., 2023, arXiv 2304.01195): APE's prior refinement, trained.

    logits = s x W'^T + alpha s/100 exp(-beta (1 - x F'^T)) (L v), with s the logit scale (100 where alphas were
    published): W' is the text weights and F' the keys, to whose chosen channels the residual (C, Q) of the class is
    added, v (N,) scales each key's value. Only the residual (from 0) and v (from 1) are trained; affinities use all
    channels and nothing is normalised again. AdamW, cosine per step, cross-entropy, at the given beta and alpha, else 1
    and the preset's alpha (3); then beta and alpha are searched with what was learned.

    As shipped the released code cannot run APE-T: it mixes up two channel counts, and reuses the channels that APE left
    on disk. Here the channels are chosen by the text alone, its default; `criterion="image_text"` chooses them as APE
    does. Epoch, beta and alpha are chosen as in tip-adapter-f: on val, else on held-out images and then a second run.
    Where the support has views, epoch e trains on view e mod V of every image, and a key is the mean of the views;
    `fresh_views` trains on a new view in each epoch instead, as the released code does.

    `resources={"batch_order": (epochs, N) int64}` overrides the shuffle of the run on the whole support; "images" are
    the `TrainingImages` of `fresh_views`.

    Classes with unequal numbers of images count alike (`class_weight`), and among settings that score alike on val the
    middle one is taken (`ties`); published are "none" and "published". With equal classes only ties differ.

    Unequal classes get offsets (`ClassWeighting.cross_fitted_offsets`), and the cache before training is epoch 0,
    which is kept where it scores better on val.

    Raises:
        ConfigError: an option is out of range, or `top_q` is above the features' width.
        UnknownNameError: no such preset.

    Example:
        >>> adapter = build_adapter("ape-t", epochs=5)
        >>> report = adapter.fit(support, classifier, val=val)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "channels are chosen by the text criterion, as in the paper; the released function cannot run as shipped (it "
        "confuses two channel counts) and reuses APE's channels from disk; the epoch is chosen on val; by default 10 "
        "stored augmented views in turn instead of new ones (`fresh_views`)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "keys", "values", "channels", "residual", "value_scale", "beta_", "alpha_",
        "offset",
    )  # fmt: skip
    later_state: ClassVar[dict[str, None]] = {"offset": None}
    trained: ClassVar[tuple[str, ...]] = ("residual", "value_scale")

    pool = has(TrainingViews, published_crop=(0.5, 1.0), averages_views=True)
    weighting = has(ClassWeighting)
    choice = has(Ties)
    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()
    alpha: float | None = option(None, "weight of the cache; none to search it", low=0)
    beta: float | None = option(None, "sharpness of the cache; none to search it", low=0)
    top_q: int | None = option(
        None, "channels with a residual; none: the preset's share of the width, or 0.8 of it", low=1, high=1_048_576
    )
    w: tuple[float, float] = option((0.2, 0.8), "weights of (similarity, variance) in the criterion")
    criterion: str = option("text", "choose the channels by text alone, or by images too", choices=CRITERIA)
    search_scale: tuple[float, float] | None = option(
        None, "upper ends (beta, alpha) of the grid; none: the preset's, or 7,7", above=0.1
    )
    search_step: tuple[int, int] = option((200, 20), "points (beta, alpha) of the grid", low=1, high=100_000)
    lr: float | None = option(None, "learning rate of AdamW; none: the preset's, or 1e-3", above=0)
    eps: float | None = option(None, "epsilon of AdamW; none: the preset's, or 1e-3", above=0)
    weight_decay: float = option(0.1, "weight decay of AdamW", low=0)
    epochs: int | None = option(None, "length of the cosine; none: the preset's, or 30", low=1, high=100_000)
    batch_size: int = option(256, "images per step", low=1, high=1_048_576)
    select: str = option("best_val", "epoch to keep: the best on val, or the last", choices=SELECT)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.take_texts(classifier)
        base = self.text
        axes = grid_axes(self, AXES, APE_SETTINGS[self.preset])
        self.beta_, self.alpha_ = (axis.fallback for axis in axes)
        selection = selection_split(support, val, seed)
        seen = views_of_training(self.pool, support, backbone, resources, seed)
        trained = train_and_choose(
            self, support, selection, axes, resources.get("batch_order"), base=base, seed=seed, seen=seen
        )
        notes = [keys_note(support, self.pool.views), f"{len(self.channels)} of {support.dim} channels are trained"]
        notes += [self.pool.views_note(support)] if self.pool.fresh else []
        return FitReport(self.name, trained.chosen, trained.words, trained.score, trained.history, notes)

    def _train(
        self, support, *, base, seed, seen=None, val=None, stop=None, order=None
    ) -> tuple[int, list[dict[str, float]]]:
        """Set channels, residual, value_scale and what they make of text, keys and values; kept epoch and history."""
        weights = self.weighting.class_weights(support.labels, len(base))
        keys, values = cache_keys(support, self.pool.views), cache_values(support, len(base), weights)
        self.channels = self._choose_channels(base, keys, one_hot_values(support, len(base)))
        residual = torch.zeros(len(base), len(self.channels), device=keys.device, requires_grad=True)
        value_scale = torch.ones(len(keys), 1, device=keys.device, requires_grad=True)
        compose = partial(self._compose, base, keys, values, support.labels)
        criterion = label_loss(False, self.weighting.priors_of(support.labels, len(base)))

        def logits(unit: Tensor) -> Tensor:
            return self.scores(unit, unit, *compose(residual, value_scale))

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            images = training_features(support, index, seen or self.pool.views, epoch)
            return criterion(logits(images), support.labels[index])

        kept = train_keeping_best(
            [residual, value_scale],
            loss_of,
            len(support),
            self._schedule(support, seed, stop),
            order=order,
            score=None if val is None else lambda: self.weighting.val_score(logits(val.unit), val.labels),
            select=self.select,
        )
        self.residual, self.value_scale = residual.detach(), value_scale.detach()
        self.text, self.keys, self.values = compose(self.residual, self.value_scale)
        return kept

    def _choose_channels(self, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        top_q = self.top_q or max(1, round(APE_SETTINGS[self.preset].train_top_q / APE_WIDTH * text.shape[1]))
        images = (keys, values) if self.criterion == "image_text" else ()
        return select_channels(channel_criterion(text, self.w, *images), top_q)  # (Q,)

    def _schedule(self, support, seed, stop) -> CacheSchedule:
        setting = APE_SETTINGS[self.preset]
        published_eps = setting.few_shot_eps if support.shots <= 2 and setting.few_shot_eps else setting.eps
        return CacheSchedule(
            self.epochs or setting.epochs,
            self.batch_size,
            self.lr or setting.lr,
            self.eps or published_eps,
            self.weight_decay,
            seed,
            stop,
        )

    def _compose(self, text, keys, values, labels, residual, value_scale) -> tuple[Tensor, Tensor, Tensor]:
        """Text (C, D), keys (N, D) and values (N, C) with what was learned."""
        shift = torch.zeros_like(text).index_copy(1, self.channels, residual)  # (C, D)
        return text + shift, keys + shift[labels], values * value_scale

    def _logits(self, batch: Batch) -> Tensor:
        logits = super()._logits(batch)
        return logits if self.offset is None else logits + self.offset

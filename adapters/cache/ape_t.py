"""APE-T: one residual a class on the channels that tell classes apart, added to text and keys, and a weight a key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ...core.contracts.adapter import Adapter, Batch, FitReport, require
from ...core.data.holdout import selection_split
from ...core.metrics.selection import val_score
from ...core.training.small_heads import label_loss, training_features
from ._cache_model import (
    REFERENCE_SCALE,
    cache_keys,
    cache_logits,
    cache_values,
    check_options,
    grid_axes,
    keys_note,
    search_as,
    zero_shot_logits,
    zero_shot_text,
)
from ._presets import APE_WIDTH, ape_setting
from ._training import Schedule, check_schedule, train_and_choose, train_keeping_best
from .ape import channel_criterion, select_channels

AXES = ("beta", "alpha")
CRITERIA = ("text", "image_text")


@dataclass(eq=False, kw_only=True)
class APET(Adapter):
    """APE-T, of Not All Features Matter (Zhu et al., 2023, arXiv 2304.01195): APE's prior refinement, trained.

    logits = s x W'^T + alpha s/100 exp(-beta (1 - x F'^T)) (L v), with s the logit scale (100 where alphas were
    published): W' is the text weights and F' the keys, to whose chosen channels the residual (C, Q) of the class is
    added, v (N,) scales each key's value. Only residual (from 0) and v (from 1) learn; affinities use all channels and
    nothing is normalised again. AdamW, cosine a step, cross-entropy, at the given beta and alpha, else 1 and the
    preset's alpha (3); then beta and alpha are searched with what was learned.

    As shipped the released code cannot run APE-T: it mixes up two channel counts, and reuses the channels that APE left
    on disk. Here the channels are chosen by the text alone, its default; `criterion="image_text"` chooses them as APE
    does. Epoch, beta and alpha are chosen as in tip-adapter-f: on val, else on held-out images and then a second run.
    Where the support has views, epoch e trains on view e mod V of every image, and a key is the mean of the views.

    `resources={"batch_order": (epochs, N) int64}` overrides the shuffle of the run on the whole support.

    Args:
        alpha, beta: None to search them.
        top_q: number of channels the residual has; None: the preset's share of the width, or 0.8.
        w: how much (similarity, variance) count in the criterion.
        criterion: "text" or "image_text".
        search_scale: upper ends (beta, alpha) of the grid; None: the preset's, or (7, 7).
        search_step: points (beta, alpha) of the grid.
        preset: name of a set of the few-shot protocol ("dtd", "flowers", ...), for its published settings.
        views: how many augmented views a key averages; 0 for the plain feature.
        lr, eps: AdamW's rate and epsilon; None: the preset's, or 1e-3 each.
        weight_decay: AdamW's.
        epochs: length of the cosine; None: the preset's, or 30.
        batch_size: images a step.
        select: "best_val" or "last".

    Raises:
        ConfigError: an option is out of range, or `top_q` is above the features' width.
        UnknownNameError: no such preset.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "views"})
    state: ClassVar[tuple[str, ...]] = (
        "text", "logit_scale", "logit_bias", "keys", "values", "channels", "residual", "value_scale", "beta_", "alpha_",
    )  # fmt: skip
    trained: ClassVar[tuple[str, ...]] = ("residual", "value_scale")

    alpha: float | None = None
    beta: float | None = None
    top_q: int | None = None
    w: tuple[float, float] = (0.2, 0.8)
    criterion: str = "text"
    search_scale: tuple[float, float] | None = None
    search_step: tuple[int, int] = (200, 20)
    preset: str | None = None
    views: int = 10
    lr: float | None = None
    eps: float | None = None
    weight_decay: float = 0.1
    epochs: int | None = None
    batch_size: int = 256
    select: str = "best_val"

    def __post_init__(self):
        check_options(self, AXES)
        check_schedule(self)
        require(len(self.w) == 2, "w", self.w, "give two numbers, for similarity and variance")
        require(self.top_q is None or self.top_q >= 1, "top_q", self.top_q, "give at least 1")
        require(self.criterion in CRITERIA, "criterion", self.criterion, f"give one of {', '.join(CRITERIA)}")
        ape_setting(self.preset)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        base, self.logit_bias = zero_shot_text(classifier)
        self.logit_scale = classifier.logit_scale
        axes = grid_axes(self, AXES, ape_setting(self.preset))
        self.beta_, self.alpha_ = (axis.fallback for axis in axes)
        selection = selection_split(support, val, seed)

        train = partial(self._train, base=base, seed=seed)
        search, order = search_as(self, selection), resources.get("batch_order")
        trained = train_and_choose(support, selection, axes, train, search, order)
        self.beta_, self.alpha_ = trained.chosen["beta"], trained.chosen["alpha"]
        notes = [keys_note(support, self.views), f"{len(self.channels)} of {support.dim} channels learn"]
        return FitReport(self.name, trained.chosen, trained.words, trained.score, trained.history, notes)

    def _train(self, support, *, base, seed, val=None, stop=None, order=None) -> tuple[int, list[dict[str, float]]]:
        """Set channels, residual, value_scale and what they make of text, keys and values; kept epoch and history."""
        keys, values = cache_keys(support, self.views), cache_values(support, len(base))
        self.channels = self._choose_channels(base, keys, values)
        residual = torch.zeros(len(base), len(self.channels), device=keys.device, requires_grad=True)
        value_scale = torch.ones(len(keys), 1, device=keys.device, requires_grad=True)
        compose = partial(self._compose, base, keys, values, support.labels)
        criterion = label_loss(several=False)

        def logits(unit: Tensor) -> Tensor:
            return self._unit_logits(unit, *compose(residual, value_scale))

        def loss_of(epoch: int, index: Tensor) -> Tensor:
            return criterion(logits(training_features(support, index, self.views, epoch)), support.labels[index])

        kept = train_keeping_best(
            [residual, value_scale],
            loss_of,
            len(support),
            self._schedule(support, seed, stop),
            order=order,
            score=None if val is None else lambda: val_score(logits(val.unit), val.labels),
            select=self.select,
        )
        self.residual, self.value_scale = residual.detach(), value_scale.detach()
        self.text, self.keys, self.values = compose(self.residual, self.value_scale)
        return kept

    def _choose_channels(self, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        top_q = self.top_q or max(1, round(ape_setting(self.preset).train_top_q / APE_WIDTH * text.shape[1]))
        images = (keys, values) if self.criterion == "image_text" else ()
        return select_channels(channel_criterion(text, self.w, *images), top_q)  # (Q,)

    def _schedule(self, support, seed, stop) -> Schedule:
        setting = ape_setting(self.preset)
        published_eps = setting.few_shot_eps if support.shots <= 2 and setting.few_shot_eps else setting.eps
        return Schedule(
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

    def _unit_logits(self, unit: Tensor, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        zero_shot = zero_shot_logits(unit, text, self.logit_scale, self.logit_bias)  # (B, C)
        cache = cache_logits(unit, keys, values, self.beta_)  # (B, C)
        return zero_shot + self.alpha_ * self.logit_scale / REFERENCE_SCALE * cache

    def _logits(self, batch: Batch) -> Tensor:
        return self._unit_logits(batch.unit, self.text, self.keys, self.values)

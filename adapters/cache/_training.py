"""How cache models are trained: AdamW, cosine per step, the kept epoch chosen on val."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts import Batch, FeatureSet
from ...core.data import Selection
from ...core.metrics import ALIKE
from ...core.training import LearningRates, epoch_batches, keep_best, train_epochs
from ._cache_model import Axis, CacheModel, Rows, as_they_are, search_as

SELECT = ("best_val", "last")


@dataclass(frozen=True)
class CacheSchedule:
    """How to train. `epochs` sets the cosine's length; `stop` ends it earlier."""

    epochs: int
    batch_size: int
    lr: float
    eps: float
    weight_decay: float
    seed: int
    stop: int | None = None


@dataclass(frozen=True)
class _Trained:
    """What a trained fit chose: hyper-parameters and epoch, on what, the score there, and the history."""

    chosen: dict[str, float]
    words: str
    score: float | None
    history: list[dict[str, float]]


def train_and_choose(
    adapter: CacheModel,
    support: FeatureSet,
    selection: Selection,
    axes: Sequence[Axis],
    order: Tensor | None,
    **given,
) -> _Trained:
    """Train, search beta and alpha with what was learned, learn the offsets of unequal classes at these, and, where val
    was held out of the support, train again on all of it. What predicts is left with the adapter.

    Where classes are unequal and count alike, the cache as it was before training is epoch 0, which is kept where it
    scores better on val. Scores are of all that predicts, offsets included.

    Args:
        adapter: its `_train(support, val=, stop=, order=, **given)` gives the kept epoch and the history, and leaves
            what it learned with the adapter.
        axes: beta and alpha.
        order: a fixed batch order of the whole support, or None.
        given: what `_train` takes besides, the seed among it, and `rows` where keys may be of another backbone.
    """
    epoch, history = adapter._train(
        selection.train, val=selection.val, order=None if selection.held_out else order, **given
    )
    chosen, score = _search(adapter, selection, axes, epoch, given)
    unequal = adapter.weighting.counts_unequal(selection.train, len(adapter.text))
    if score is not None and adapter.select != "last" and unequal:
        other = copy.copy(adapter)
        other._train(selection.train, stop=0, **given)
        before, untrained = _search(other, selection, axes, 0, given)
        if untrained > score + ALIKE:
            epoch, chosen, score = 0, before, untrained
            for name in adapter.state:
                setattr(adapter, name, getattr(other, name))
    if selection.held_out:
        adapter.beta_, adapter.alpha_ = (axis.fallback for axis in axes)
        again = adapter._train(support, stop=epoch, order=order, **given)[1]
        history = [{**row, "refit": 0} for row in history] + [{**row, "refit": 1} for row in again]
        _predict_with(adapter, support, axes, chosen, epoch, given)
    nothing_chosen = all(axis.given is not None for axis in axes) and (score is None or adapter.select == "last")
    words = "given as options" if nothing_chosen else selection.words
    return _Trained({**chosen, "epoch": epoch}, words, score, history)


def _search(
    adapter: CacheModel, selection: Selection, axes: Sequence[Axis], epoch: int, given: dict
) -> tuple[dict[str, float], float | None]:
    """Beta and alpha of the best score on val, and what it is with the offsets of unequal classes; the defaults and
    None without val. The adapter then predicts with them."""
    names, val, rows = [axis.name for axis in axes], selection.val, given.get("rows", as_they_are)
    if val is None:
        chosen, score = dict(zip(names, [axis.fallback for axis in axes])), None
    else:
        best, score = search_as(adapter, selection, rows)(*[axis.values for axis in axes])
        chosen = dict(zip(names, best))
    _predict_with(adapter, selection.train, axes, chosen, epoch, given)
    if score is not None and adapter.offset is not None:
        score = adapter.weighting.val_score(adapter._logits(batch_of(val, rows)), val.labels)
    return chosen, score


def _predict_with(
    adapter: CacheModel,
    support: FeatureSet,
    axes: Sequence[Axis],
    chosen: dict[str, float],
    epoch: int,
    given: dict,
) -> None:
    """Set beta and alpha, and the offsets: on each fold the cache is trained again for as many epochs."""

    def logits_of(rest: FeatureSet, held: FeatureSet) -> Tensor:
        other = copy.copy(adapter)
        other.beta_, other.alpha_ = (axis.fallback for axis in axes)
        other._train(rest, stop=epoch, **given)
        other.beta_, other.alpha_, other.offset = chosen["beta"], chosen["alpha"], None
        return other._logits(batch_of(held, given.get("rows", as_they_are)))

    adapter.beta_, adapter.alpha_ = chosen["beta"], chosen["alpha"]
    adapter.offset = adapter.weighting.cross_fitted_offsets(support, len(adapter.text), given["seed"], logits_of)


def train_keeping_best(
    parameters: list[Tensor],
    loss_of: Callable[[int, Tensor], Tensor],
    size: int,
    schedule: CacheSchedule,
    *,
    order: Tensor | None = None,
    score: Callable[[], float] | None = None,
    select: str = "best_val",
) -> tuple[int, list[dict[str, float]]]:
    """Train `parameters` in place; the kept epoch and the history as `keep_best` gives them.

    Args:
        loss_of: (epoch from 0, indices) -> loss.
        size: number of training samples.
        order: (epochs, size) int64 overriding the shuffle.
        score: val score of the parameters as they are; None keeps the last epoch.
        select: "best_val" keeps the first epoch of the best score, "last" the last.
    """
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, eps=schedule.eps, weight_decay=schedule.weight_decay)
    batches = epoch_batches(size, schedule.batch_size, schedule.seed, order=order, device=parameters[0].device)
    steps = len(batches(0))
    rates = chained_cosine_rates(schedule.lr, schedule.epochs * steps).by_epoch(steps)[: schedule.stop]
    epochs = train_epochs(optimizer, rates, batches, loss_of)

    def row(epoch) -> dict[str, float]:
        """Of the history, its mean loss in double precision."""
        return {**epoch.row(), "loss": sum(epoch.losses.tolist()) / len(epoch.losses)}

    return keep_best(epochs, parameters, score, best=select == "best_val", row=row)


def chained_cosine_rates(lr: float, steps: int) -> LearningRates:
    """`LearningRates.cosine` as torch's CosineAnnealingLR makes it: each rate of the one before, which rounds
    differently."""
    rates = LearningRates([lr])
    for step in range(1, steps):
        ratio = (1 + math.cos(math.pi * step / steps)) / (1 + math.cos(math.pi * (step - 1) / steps))
        rates.append(ratio * rates[-1])
    return rates


def batch_of(features: FeatureSet, rows: Rows) -> Batch:
    """Support or val as they are predicted."""
    return Batch(features=features.features, ids=features.ids, keys=rows(features).features)

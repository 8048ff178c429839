"""How cache models are trained: AdamW, cosine per step, the kept epoch chosen on val."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts.choices import ClassWeighted
from ...core.contracts.features import Batch, FeatureSet
from ...core.data.sampling import Selection
from ...core.metrics.selection import ALIKE
from ...core.training.batches import epoch_batches
from ...core.training.class_offsets import cross_fitted_offsets
from ...core.training.schedules import by_epoch, chained_cosine_rates
from ...core.training.small_heads import Epoch, keep_best, train_epochs
from ._cache_model import Axis, choose

SELECT = ("best_val", "last")


@dataclass(frozen=True)
class Schedule:
    """How to train. `epochs` sets the cosine's length; `stop` ends it earlier."""

    epochs: int
    batch_size: int
    lr: float
    eps: float
    weight_decay: float
    seed: int
    stop: int | None = None


@dataclass(frozen=True)
class Trained:
    """What a trained fit chose: hyper-parameters and epoch, on what, the score there, and the history."""

    chosen: dict[str, float]
    words: str
    score: float | None
    history: list[dict[str, float]]


def train_and_choose(
    support: FeatureSet,
    selection: Selection,
    axes: Sequence[Axis],
    train: Callable[..., tuple[int, list[dict[str, float]]]],
    search: Callable[..., tuple[tuple[float, ...], float]],
    order: Tensor | None,
    or_untrained: bool = False,
) -> Trained:
    """Train, search with what was learned, and, where val was held out of the support, train again on all of it.

    Args:
        train: (support, val=, stop=, order=) -> kept epoch and history; leaves what it learned with the adapter.
        search: one sequence of values per axis -> best point and score on the selection's val.
        order: a fixed batch order of the whole support, or None.
        or_untrained: keep the cache as it was before training (epoch 0) where the search finds a better score with it.
    """
    learned_from = selection.train if selection.held_out else support
    epoch, first = train(learned_from, val=selection.val, order=None if selection.held_out else order)
    chosen, words, score = choose(axes, selection, search)
    if or_untrained and score is not None:
        train(learned_from, stop=0)
        before, _, untrained = choose(axes, selection, search)
        if untrained > score + ALIKE:
            epoch, chosen, score = 0, before, untrained
        else:
            train(learned_from, stop=epoch, order=None if selection.held_out else order)
    if not selection.held_out:
        return Trained({**chosen, "epoch": epoch}, words, score, first)
    second = train(support, stop=epoch, order=order)[1]
    history = [{**row, "refit": 0} for row in first] + [{**row, "refit": 1} for row in second]
    return Trained({**chosen, "epoch": epoch}, words, score, history)


def trained_offsets(
    adapter: ClassWeighted, support: FeatureSet, num_classes: int, axes: Sequence[Axis], chosen: dict, **given
) -> Tensor | None:
    """`cross_fitted_offsets` a trained cache: on each fold it is trained again for as many epochs, at the same
    settings.

    Args:
        axes: beta and alpha.
        chosen: of the fit, with its "epoch".
        given: what the adapter's `_train` takes besides the support, the seed among it.
    """

    def logits_of(rest: FeatureSet, held: FeatureSet) -> Tensor:
        other = copy.copy(adapter)
        other.beta_, other.alpha_ = (axis.fallback for axis in axes)
        other._train(rest, stop=chosen["epoch"], **given)
        other.beta_, other.alpha_, other.offset = chosen["beta"], chosen["alpha"], None
        return other._logits(Batch.of(held))

    return cross_fitted_offsets(adapter, support, num_classes, given["seed"], logits_of)


def train_keeping_best(
    parameters: list[Tensor],
    loss_of: Callable[[int, Tensor], Tensor],
    size: int,
    schedule: Schedule,
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
    rates = by_epoch(chained_cosine_rates(schedule.lr, schedule.epochs * steps), steps)[: schedule.stop]
    epochs = train_epochs(optimizer, rates, batches, loss_of)
    return keep_best(epochs, parameters, score, best=select == "best_val", row=_row)


def _row(epoch: Epoch) -> dict[str, float]:
    """The mean loss in double precision."""
    return {**epoch.row(), "loss": sum(epoch.losses.tolist()) / len(epoch.losses)}

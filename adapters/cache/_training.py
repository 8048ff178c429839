"""The training loop of trained cache models: AdamW, cosine a step, the kept epoch chosen on val."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.contracts.features import FeatureSet
from ...core.data.holdout import Selection
from ...core.training.minibatches import minibatches
from ._search import Axis, choose

SELECT = ("best_val", "last")


@dataclass(frozen=True)
class Epoch:
    """One epoch done: its number from 1, the rate of its first step, the loss of each step."""

    number: int
    lr: float
    losses: tuple[float, ...]


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
) -> Trained:
    """Train, search with what was learned, and, where val was held out of the support, train again on all of it.

    Args:
        train: (support, val=, stop=, order=) -> kept epoch and history; leaves what it learned with the adapter.
        search: one sequence of values an axis -> best point and score on the selection's val.
        order: a fixed batch order of the whole support, or None.
    """
    if not selection.held_out:
        epoch, history = train(support, val=selection.val, order=order)
        chosen, words, score = choose(axes, selection, search)
        return Trained({**chosen, "epoch": epoch}, words, score, history)
    epoch, first = train(selection.train, val=selection.val)
    chosen, words, score = choose(axes, selection, search)
    second = train(support, stop=epoch, order=order)[1]
    history = [{**row, "refit": 0} for row in first] + [{**row, "refit": 1} for row in second]
    return Trained({**chosen, "epoch": epoch}, words, score, history)


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
    """Train `parameters` in place and leave them as they were after the kept epoch.

    Args:
        parameters: leaf tensors.
        loss_of: (epoch from 0, indices) -> loss.
        size: number of training samples.
        order: (epochs, size) int64 overriding the shuffle.
        score: val score of the parameters as they are; None keeps the last epoch.
        select: "best_val" keeps the first epoch of the best score, "last" the last.

    Returns:
        The kept epoch, from 1, and one dict an epoch (epoch, loss, lr, val_score).
    """
    history, best, kept, number = [], -1.0, None, 0
    for epoch in train_epochs(parameters, loss_of, size, schedule, order):
        number = epoch.number
        history.append({"epoch": number, "loss": sum(epoch.losses) / len(epoch.losses), "lr": epoch.lr})
        if score is None:
            continue
        with torch.no_grad():
            history[-1]["val_score"] = score()
        if select == "best_val" and history[-1]["val_score"] > best:
            best = history[-1]["val_score"]
            kept = (number, [p.detach().clone() for p in parameters])
    if kept is None:
        return number, history
    with torch.no_grad():
        for parameter, value in zip(parameters, kept[1]):
            parameter.copy_(value)
    return kept[0], history


def train_epochs(parameters, loss_of, size: int, schedule: Schedule, order: Tensor | None) -> Iterator[Epoch]:
    """Yield after every epoch."""
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, eps=schedule.eps, weight_decay=schedule.weight_decay)
    steps = -(-size // schedule.batch_size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs * steps)
    for epoch in range(schedule.stop or schedule.epochs):
        lr, losses = optimizer.param_groups[0]["lr"], []
        for index in minibatches(size, schedule.batch_size, epoch, schedule.seed, order=order):
            loss = loss_of(epoch, index.to(parameters[0].device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
            losses.append(loss.detach())
        yield Epoch(epoch + 1, lr, tuple(torch.stack(losses).tolist()))

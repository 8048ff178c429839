"""One trainer of what is small: a head on features, the keys of a cache, the context of a prompt.

A method brings the pieces: an optimiser over its tensors, the rates of all steps (`schedules.py`), the order of batches
(`batches.py`) and the loss of a step. Between epochs it may look at what was learned: `keep_best` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.features import FeatureSet
from ..contracts.loss import Loss
from ..losses.binary_cross_entropy import BinaryCrossEntropy
from ..losses.cross_entropy import CrossEntropy
from ..runtime.progress import with_progress
from .epoch_views import EpochViews
from .schedules import set_learning_rate


@dataclass(frozen=True)
class Epoch:
    """One epoch done.

    Args:
        number: from 0.
        rates: the learning rate of each step.
        losses: (steps,) the loss of each step, or (steps, R) of R heads trained side by side.
    """

    number: int
    rates: Sequence[float]
    losses: Tensor

    def row(self, first: int = 1, head: int = 0) -> dict[str, float]:
        """Of a history: the number, counted from `first`, the mean loss (of one head), the rate of the first step."""
        mean = self.losses.mean(dim=0).flatten()[head]
        return {"epoch": self.number + first, "loss": float(mean), "lr": self.rates[0]}


def train_epochs(
    optimizer: torch.optim.Optimizer,
    rates: Iterable[Sequence[float]],
    batches: Callable[[int], Iterable[Any]],
    loss_of: Callable[[int, Any], Tensor],
    *,
    clip_grad: float | None = None,
    accumulate: int = 1,
) -> Iterator[Epoch]:
    """Train in place what the optimiser holds, and yield after every epoch. Where the rates are a list, a fit shows
    how far it is.

    Args:
        optimizer: over leaf tensors. No other tensor gets a gradient.
        rates: for each epoch the learning rate at each of its batches, asked for when the epoch begins. Batches beyond
            these are left out.
        batches: epoch -> what each step sees, usually indices of samples (`epoch_batches`).
        loss_of: (epoch, batch) -> loss, or (R,) losses of independent heads, whose sum is minimised.
        clip_grad: largest norm of the gradient, or None.
        accumulate: batches whose mean gradient makes a step; the last step of an epoch may have fewer.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for epoch, rates_of_epoch in enumerate(with_progress(rates)):
        losses = []
        for number, (rate, batch) in enumerate(zip(rates_of_epoch, batches(epoch)), start=1):
            set_learning_rate(optimizer, rate)
            loss = loss_of(epoch, batch)
            if number % accumulate == 1 % accumulate:
                optimizer.zero_grad()
            (loss.sum() / accumulate).backward(inputs=parameters)
            losses.append(loss.detach())
            if number % accumulate and number < len(rates_of_epoch):
                continue
            if clip_grad is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
            optimizer.step()
        yield Epoch(epoch, rates_of_epoch, torch.stack(losses))


def keep_best(
    epochs: Iterable[Epoch],
    parameters: Sequence[Tensor],
    score: Callable[[], float] | None,
    *,
    best: bool = True,
    row: Callable[[Epoch], dict[str, float]] = Epoch.row,
) -> tuple[int, list[dict[str, float]]]:
    """Train to the end, then put the parameters back to what they were after the first epoch of the best score.

    Args:
        epochs: a training, as `train_epochs` gives it.
        parameters: what it trains.
        score: val score of the parameters as they are, or None.
        best: False keeps the last epoch, as happens without a score, or where all of them are NaN.
        row: what the history says of an epoch.

    Returns:
        The kept epoch, from 1, and the history, each row with its "val_score" where there is one.
    """
    history, highest, best_epoch = [], -math.inf, None
    for epoch in epochs:
        history.append(row(epoch))
        if score is None:
            continue
        with torch.no_grad():
            history[-1]["val_score"] = reached = score()
        if best and reached > highest:
            highest, best_epoch = reached, (epoch.number + 1, [parameter.detach().clone() for parameter in parameters])
    if best_epoch is None:
        return len(history), history
    with torch.no_grad():
        for parameter, value in zip(parameters, best_epoch[1]):
            parameter.copy_(value)
    return best_epoch[0], history


def training_features(support: FeatureSet, index: Tensor, views: int | EpochViews, epoch: int) -> Tensor:
    """(B, D) unit features that an epoch sees of the images in `index`.

    Args:
        index: (B,) int64.
        views: take one of so many augmented views of each image, in turn, where the support has them; 0: the image;
            `EpochViews`: new ones.
        epoch: from 0; epoch e sees view e modulo their number.
    """
    if isinstance(views, EpochViews):
        return F.normalize(views.of(support, epoch)[index, 0], dim=-1)
    if not views or support.views is None:
        return F.normalize(support.features[index], dim=-1)
    return F.normalize(support.views[index, epoch % min(views, support.views.shape[1])].float(), dim=-1)


def label_loss(several: bool, priors: Tensor | None = None, **options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """(B, C) logits and labels -> cross-entropy, or binary cross-entropy where an image has several labels.

    Args:
        several: whether it has.
        priors: (C,) log shares of the classes (`log_priors`), of which the cross-entropy knows what to do, or None.
        options: of the loss.
    """
    criterion: Loss = BinaryCrossEntropy(**options) if several else CrossEntropy(**options)
    shared = {} if priors is None else {"class_priors": priors}
    return lambda logits, labels: criterion({"logits": logits, "labels": labels, **shared})["loss"]

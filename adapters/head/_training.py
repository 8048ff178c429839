"""How small heads on fixed features are trained: Dassl's rate an epoch, minibatches, and augmented views in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts.features import FeatureSet
from ...core.contracts.loss import Loss
from ...core.losses.binary_cross_entropy import BinaryCrossEntropy
from ...core.losses.cross_entropy import CrossEntropy
from ...core.training.schedules import set_learning_rate


def train_epochs(
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    samples: Callable[[int], tuple[Tensor, Tensor]],
    batches: Callable[[int], Sequence[Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[tuple[int, Tensor]]:
    """Train, and yield after every epoch its number from 0 and the losses (steps, ...) of its steps.

    Args:
        optimizer: of the head's parameters.
        rates: the learning rate of each epoch.
        samples: epoch -> unit features (N, D) and labels.
        batches: epoch -> the rows of each step.
        loss_of: features and labels of a step -> loss, or a loss for each of several heads trained side by side.
    """
    for epoch, rate in enumerate(rates):
        set_learning_rate(optimizer, rate)
        features, labels = samples(epoch)
        losses = []
        for index in batches(epoch):
            index = index.to(features.device)
            loss = loss_of(features[index], labels[index])
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            losses.append(loss.detach())
        yield epoch, torch.stack(losses)


def epoch_samples(support: FeatureSet, views: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Epoch -> (N, D) unit features and labels: one augmented view an image, another one each epoch, where there are
    views; else the features of the images as they are."""
    if not views or support.views is None:
        unit = support.unit
        return lambda epoch: (unit, support.labels)
    number = min(views, support.views.shape[1])
    return lambda epoch: (F.normalize(support.views[:, epoch % number].float(), dim=-1), support.labels)


def views_note(support: FeatureSet, views: int) -> str:
    """What was trained on, in words, for `FitReport.notes`."""
    if views and support.views is not None:
        return f"trained on {min(views, support.views.shape[1])} augmented views an image"
    return "trained on features of the images as they are, without augmented views"


def shots_of(support: FeatureSet) -> int:
    """Images of the largest class; 1 at least."""
    return max(1, int(support.one_hot().sum(dim=0).max()))


def published_epochs(support: FeatureSet, epochs_from_shots: Sequence[tuple[int, int]]) -> int:
    """Epochs of the first (least shots, epochs) that the support reaches."""
    shots = shots_of(support)
    return next(epochs for least, epochs in epochs_from_shots if shots >= least)


def label_loss(several: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """(B, C) logits and labels -> cross-entropy, or binary cross-entropy with several labels an image."""
    criterion: Loss = BinaryCrossEntropy() if several else CrossEntropy()
    return lambda logits, labels: criterion({"logits": logits, "labels": labels})["loss"]

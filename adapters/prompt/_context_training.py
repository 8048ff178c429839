"""What methods that learn context vectors share: their options, Dassl's training loop, and moving to other classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts.adapter import Adapter
from ...core.contracts.backbone import Backbone
from ...core.contracts.errors import CapabilityError, ConfigError
from ...core.contracts.features import FeatureSet
from ...core.registry.build import build_adapter
from ...core.training.minibatches import minibatches
from ...core.training.schedules import dassl_learning_rates, dassl_sgd, set_learning_rate

PASSING = ("trim", "class_chunk", "checkpointing")
"""Options that change speed and memory alone."""


def check_task(adapter: Adapter, support: FeatureSet) -> None:
    """ConfigError where classes have no names to write prompts around, CapabilityError where views are lacking."""
    check_named(adapter)
    if adapter.views and (support.views is None or support.views.shape[1] < adapter.views):
        held = 0 if support.views is None else support.views.shape[1]
        raise CapabilityError(f"option views={adapter.views}: the support has {held} augmented views an image")


def check_named(adapter: Adapter) -> None:
    if not adapter.class_names_:
        raise ConfigError(
            f"{adapter.name} writes prompts around class names, and none are given; name them in the classifier"
        )


def check_transfer(adapter: Adapter, backbone: Backbone) -> None:
    """CapabilityError where what was learned cannot serve other classes of this backbone."""
    if not getattr(adapter, "fitted_", False):
        raise CapabilityError(f"adapter '{adapter.name}' is not fitted; call fit() or load_adapter() first")
    if adapter.multilabel_:
        raise CapabilityError(f"{adapter.name} carries its context to other classes only where an image has one label")
    if adapter.backbone_ and backbone.fingerprint != adapter.backbone_:
        raise CapabilityError(
            f"backbone '{backbone.spec}' is not the one that {adapter.name} was fitted on; load that one"
        )


def mark_fitted(other: Adapter, adapter: Adapter, class_names: Sequence[str]) -> None:
    """What a fit notes, on a copy of a fitted adapter for other classes."""
    other.class_names_, other.backbone_, other.dim_ = tuple(class_names), adapter.backbone_, adapter.dim_
    other.multilabel_, other.fitted_ = False, True


def with_other_classes(adapter: Adapter, backbone: Backbone, class_names: Sequence[str]) -> Adapter:
    """A fitted copy that names other classes with all that was learned here.

    Raises:
        CapabilityError: what was learned cannot serve them.
    """
    check_transfer(adapter, backbone)
    other = build_adapter(adapter.name, **adapter.options)
    for name in adapter.state:
        setattr(other, name, getattr(adapter, name))
    mark_fitted(other, adapter, class_names)
    return other.attach(backbone)


def train_epochs(
    adapter,
    parameters: list[Tensor],
    loss_of: Callable[[Tensor, Tensor, float], Tensor],
    support: FeatureSet,
    epochs: int,
    order: Tensor | None,
    seed: int,
) -> list[dict[str, float]]:
    """Train `parameters` in place by SGD as Dassl sets it up, with the options of the adapter; the last step is kept.

    Args:
        adapter: has the options lr, momentum, weight_decay, warmup, batch_size and views.
        parameters: leaf tensors; nothing else gets a gradient.
        loss_of: (unit image features (B, D), labels, share of the training done) -> loss.
        support: N labelled images on the towers' device.
        epochs: passes over them.
        order: (epochs, N) int64 overriding the shuffle.

    Returns:
        One dict an epoch (epoch, loss, lr).
    """
    optimizer = dassl_sgd(parameters, adapter.lr, adapter.momentum, adapter.weight_decay)
    device = support.features.device
    history = []
    for epoch, lr in enumerate(dassl_learning_rates(adapter.lr, epochs, warmup=adapter.warmup)):
        set_learning_rate(optimizer, lr)
        losses = []
        for index in minibatches(len(support), adapter.batch_size, epoch, seed, order=order, drop_last=True):
            index = index.to(device)
            unit = _unit(support, index, adapter.views, epoch)  # (B, D)
            loss = loss_of(unit, support.labels[index], epoch / epochs)
            optimizer.zero_grad()
            loss.backward(inputs=parameters)  # a trainable tower's own weights get no gradient
            optimizer.step()
            losses.append(loss.detach())
        history.append({"epoch": epoch, "loss": float(torch.stack(losses).mean()), "lr": lr})
    return history


def half_where_asked(adapter, device: torch.device) -> torch.autocast:
    """bfloat16 inside, if the option `amp` says so."""
    return torch.autocast(device.type, torch.bfloat16, enabled=adapter.amp is not None)


def shots_of(support: FeatureSet) -> int:
    """Images of the largest class; 1 at least."""
    counts = support.one_hot().sum(dim=0) if support.multilabel else support.labels.bincount()
    return max(1, int(counts.max()))


def _unit(support: FeatureSet, index: Tensor, views: int, epoch: int) -> Tensor:
    """(B, D) unit features of a batch: one augmented view an image, another one each epoch, where there are views."""
    features = support.views[index, epoch % views] if views else support.features[index]
    return F.normalize(features.float(), dim=-1)

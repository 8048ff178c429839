"""Towers trained on numbers: an adapter (LoRA, all weights) with a linear layer that starts as ridge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.items import Item, Number
from ...contracts.options import options_of
from ...contracts.pair_head import PairHead
from ...contracts.recipe import Recipe
from ...errors import CapabilityError, ConfigError
from ...recipes.asked_for import adapter_options
from ...registry import adapter_class, build_adapter, build_loss, check_packages
from ...runtime.progress import Reporter
from ...training.sources import ImageSource, Remembered
from ..tower_training.fitted import Training
from .heads import NumberHead, NumberRows, fitted_ridge, head_of_loss
from .prepared import NumberImages

OF_IMAGES = {"towers": "image"}
"""Options of adapters that may train the text tower too: numbers have no texts."""
OWN_LOSS = ("loss", "loss_options", "teacher")


@dataclass(frozen=True)
class Mirrored:
    """The transform of new images, mirrored for every other seed: a crop would change what is counted or measured."""

    transform: Callable[..., Tensor]

    def __call__(self, decoded: Any, seed: int = 0) -> Tensor:
        pixels = self.transform(decoded)
        return pixels.flip(-1) if seed % 2 else pixels


def check_trains(recipe: Recipe) -> None:
    """Raise the error of an adapter that trains no towers, or of a loss given for it."""
    name = str(recipe.adapter_name)
    method = adapter_class(name)
    if "pairs" not in method.can or issubclass(method, PairHead):
        raise CapabilityError(
            f"adapter '{name}' cannot learn numbers; use lora or full, or omit --adapter for a head on stored features"
        )
    for key in OWN_LOSS:
        if key in recipe.adapter_options:
            raise ConfigError(f"--{key.replace('_', '-')}: regression trains by its own loss; choose it with --error")
    _new_adapter(recipe)


def _new_adapter(recipe: Recipe) -> Adapter:
    """The recipe's adapter, not fitted."""
    name, given = str(recipe.adapter_name), adapter_options(recipe)
    known = {each.name for each in options_of(adapter_class(name))}
    own = {key: value for key, value in OF_IMAGES.items() if key in known}
    adapter = build_adapter(name, **{**own, **given})
    check_packages(adapter.name, adapter.packages)
    return adapter


def train_towers(
    recipe: Recipe,
    prepared: NumberImages,
    items: Sequence[Item],
    frozen: NumberRows,
    seed: int,
    reporter: Reporter,
    folder: Path | None = None,
) -> tuple[Adapter, NumberHead, FitReport]:
    """The fitted adapter, whose towers a linear layer reads, and that layer.

    Args:
        items: training samples.
        frozen: the same as the towers see them before the training.
        folder: of checkpoints, or None.

    Raises:
        As `check_trains`, and as the training.
    """
    adapter, backbone, ridge = _new_adapter(recipe), prepared.backbone, fitted_ridge(frozen)
    facts = {"mean": float(ridge.mean), "deviation": float(ridge.deviation), "error": recipe.task_options["error"]}
    loss = build_loss("number", dims={"embed_dim": frozen.features.shape[1]}, **facts)
    loss.start(ridge.centre, ridge.scale, ridge.linear.weight[0], float(ridge.linear.bias))
    training = Training(
        adapter,
        seed,
        resume=recipe.resume and folder is not None,
        amp=recipe.amp,
        workers=recipe.workers,
        tolerate=recipe.tolerate,
        hooks=recipe.custom_hooks,
    )
    view = Mirrored(prepared.domain.transforms(backbone, False, prepared.task))
    readable = set(frozen.ids)
    source = ImageSource([item for item in items if item.id in readable], Remembered(prepared.data.load))
    of = f"{len(source)} images with a number"
    report = training.fit_pairs(source, backbone, reporter, folder, of, view=view, own={Number.NAME: loss})
    return adapter, head_of_loss(adapter.name, loss), report


def adapted_by(adapter: Adapter | None, backbone: Backbone) -> Backbone | None:
    """The towers that a fit trained; None where it trained none."""
    return None if adapter is None else adapter.adapted(backbone)

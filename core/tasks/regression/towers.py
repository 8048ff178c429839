"""Towers trained on numbers: an adapter (LoRA, all weights) with a linear layer that starts as ridge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.items import Item, Number
from ...contracts.options import options_of
from ...contracts.pair_head import PairHead
from ...errors import CapabilityError, ConfigError
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


def new_adapter(name: str, options: Mapping[str, Any]) -> Adapter:
    """An adapter that trains towers, not fitted.

    Raises:
        CapabilityError: it trains none, or needs a package that is not installed. ConfigError: a loss is given for it,
            or an option is not usable.
    """
    method = adapter_class(name)
    if "pairs" not in method.can or issubclass(method, PairHead):
        raise CapabilityError(
            f"adapter '{name}' cannot learn numbers; use lora or full, or omit --adapter for a head on stored features"
        )
    for key in OWN_LOSS:
        if key in options:
            raise ConfigError(f"--{key.replace('_', '-')}: regression trains by its own loss; choose it with --error")
    own = {each.name for each in options_of(method)}
    adapter = build_adapter(name, **{**{key: value for key, value in OF_IMAGES.items() if key in own}, **options})
    check_packages(f"adapter '{adapter.name}'", adapter.packages)
    return adapter


def train_number_towers(
    adapter: Adapter,
    training: Training,
    prepared: NumberImages,
    items: Sequence[Item],
    frozen: NumberRows,
    error: str,
    reporter: Reporter,
    folder: Path | None = None,
) -> tuple[Adapter, NumberHead, FitReport]:
    """The fitted adapter, whose towers a linear layer reads, and that layer.

    Args:
        adapter: as of `new_adapter`.
        training: with it.
        items: training samples.
        frozen: the same as the towers see them before the training.
        error: that is minimised.
        folder: of checkpoints, or None.
    """
    ridge = fitted_ridge(frozen)
    facts = {"mean": float(ridge.mean), "deviation": float(ridge.deviation), "error": error}
    loss = build_loss(Number.NAME, dims={"embed_dim": frozen.features.shape[1]}, **facts)
    loss.start(ridge.centre, ridge.scale, ridge.linear.weight[0].detach(), float(ridge.linear.bias.detach()))
    view = Mirrored(prepared.domain.transforms(prepared.backbone, False, prepared.task))
    readable = set(frozen.ids)
    source: Any = ImageSource([item for item in items if item.id in readable], Remembered(prepared.data.load))
    how = {"view": view, "own": {Number.NAME: loss}}
    of = f"{len(source)} images with a number"
    report = training.fit_pairs(source, prepared.backbone, reporter, folder, of, **how)
    return adapter, head_of_loss(training.name, loss), report


def adapted_by(adapter: Adapter | None, backbone: Backbone) -> Backbone | None:
    """The towers that a fit trained; None where it trained none."""
    return None if adapter is None else adapter.adapted(backbone)

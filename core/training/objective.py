"""Several losses as one: a weighted sum, each part told by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..contracts.errors import CapabilityError, ConfigError
from ..contracts.loss import Loss, in_words
from ..contracts.outputs import SHARED
from ..registry import build_loss
from ..runtime.gather import global_batch


class Objective(nn.Module):
    """The weighted sum of losses, on the global batch.

    Args:
        losses: name -> loss.
        weights: name -> factor; by default 1 each.

    Raises:
        ConfigError: no loss, a weight that is no positive number, or two losses that want different teachers.
    """

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float] | None = None):
        super().__init__()
        if not losses:
            raise ConfigError("--loss: give one loss at least")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in losses}
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ConfigError(f"--loss {name}={weight}: give a weight above 0")
        teachers = {loss.teacher for loss in losses.values() if loss.teacher}
        if len(teachers) > 1:
            raise ConfigError(f"--loss {', '.join(losses)}: they want different teachers ({', '.join(teachers)})")
        self.teacher = next(iter(teachers), None)

    @property
    def needs(self) -> frozenset[str]:
        """Names that `out` must hold for all of them."""
        return frozenset().union(*(loss.needs for loss in self.losses.values()))

    def forward(self, out: Mapping[str, Any], progress: float = 0.0) -> dict[str, Tensor]:
        """`{"loss": sum, "clip": value, "clip.part": ...}`; see `Loss.forward`."""
        for name, loss in self.losses.items():
            lacking = sorted(need for need in loss.needs if out.get(need) is None)
            if lacking:
                raise CapabilityError(f"loss '{name}' needs {', '.join(map(in_words, lacking))}, which nothing gives")
        whole = global_batch({name: value for name, value in out.items() if value is not None}, SHARED)
        values: dict[str, Tensor] = {}
        total = None
        for name, loss in self.losses.items():
            parts = loss.of_whole_batch(whole, progress)
            weighted = self.weights[name] * parts["loss"]
            total = weighted if total is None else total + weighted
            values[name] = parts["loss"].detach()
            values.update({f"{name}.{part}": value.detach() for part, value in parts.items() if part != "loss"})
        return {"loss": total, **values}

    def call(self, hook: str, *arguments: Any) -> None:
        """Call an optional hook of every loss that has it."""
        for loss in self.losses.values():
            if hasattr(loss, hook):
                getattr(loss, hook)(*arguments)


def build_objective(
    named: Iterable[str] | Mapping[str, float], dims: Mapping[str, int], options: Mapping[str, Mapping] | None = None
) -> Objective:
    """The objective that `--loss` names.

    Args:
        named: "clip", "silc=0.5", ... or name -> weight.
        dims: widths the losses' heads may need.
        options: loss name -> its keyword arguments.

    Raises:
        UnknownNameError: no loss has that name. ConfigError: a weight or an option is not usable.
    """
    weights = dict(named) if isinstance(named, Mapping) else parse_losses(named)
    options = dict(options or {})
    for name in options:
        if name not in weights:
            raise ConfigError(f"--set loss.{name}: '{name}' is not among the losses ({', '.join(weights)})")
    return Objective({name: build_loss(name, dict(dims), **options.get(name, {})) for name in weights}, weights)


def parse_losses(named: Iterable[str]) -> dict[str, float]:
    """["clip", "silc=0.5"] -> {"clip": 1.0, "silc": 0.5}.

    Raises:
        ConfigError: a weight that is no number, or a name given twice.
    """
    weights: dict[str, float] = {}
    for text in named:
        name, equals, weight = str(text).partition("=")
        name = name.strip()
        if name in weights:
            raise ConfigError(f"--loss {name}: given twice")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            raise ConfigError(f"--loss {text}: write NAME or NAME=WEIGHT, for instance --loss silc=0.5") from None
    return weights

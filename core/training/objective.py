"""Several losses as one: a weighted sum, each part told by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ..contracts.loss import Loss, output_in_words, shared_of
from ..contracts.outputs import OUTPUTS, Output
from ..errors import CapabilityError, ConfigError
from ..registry import build_loss, loss_class
from ..runtime.gather import compared_once, rank_batch
from .fields import TEXT_KINDS, TRANSLATED
from .source_losses import SourceLosses

NOT_OF_IMAGES = frozenset({*TEXT_KINDS, TRANSLATED, "pixels_negative", "labels", "image_ids"})
"""Fields of a batch that images alone do not have."""


class Objective(nn.Module):
    """The weighted sum of losses, on the global batch.

    Args:
        losses: name -> loss.
        weights: name -> factor; by default 1 each.

    Attributes:
        sources: what tells the loss of each of several sources, or None.

    Raises:
        ConfigError: no loss, a weight that is not a positive number, two losses that want different teachers, or that
            bring different outputs under one name.
    """

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float] | None = None):
        super().__init__()
        if not losses:
            raise ConfigError("--loss: give at least one loss")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in losses}
        for name, weight in self.weights.items():
            _check_weight(name, weight)
        teachers = {loss.teacher for loss in losses.values() if loss.teacher}
        if len(teachers) > 1:
            raise ConfigError(
                f"--loss {', '.join(losses)}: they need different teachers ({', '.join(teachers)}); give one of them"
            )
        self.teacher = next(iter(teachers), None)
        self.outputs = _outputs_of(losses)
        self.sources: SourceLosses | None = None
        self._agreed: set[int] = set()  # shapes of outputs that all ranks have

    @property
    def needs(self) -> frozenset[str]:
        """Names that `out` must hold for all of them."""
        return frozenset().union(*(loss.needs for loss in self.losses.values()))

    def forward(self, out: Mapping[str, Any], progress: float = 0.0) -> dict[str, Tensor]:
        """`{"loss": sum, "clip": value, "clip.part": ...}`; see `Loss.forward`."""
        for name, loss in self.losses.items():
            lacking = sorted(need for need in loss.needs if out.get(need) is None)
            if lacking:
                needs = ", ".join(output_in_words(need, self.outputs) for need in lacking)
                raise CapabilityError(f"loss '{name}' needs {needs}, which nothing provides; choose another loss")
        present = {name: value for name, value in out.items() if value is not None}
        with compared_once(self._agreed):
            batch = rank_batch(present, shared_of(self.outputs))
        values: dict[str, Tensor] = {}
        total = None
        for name, loss in self.losses.items():
            parts = loss.of_rank_batch(batch, progress)
            weighted = self.weights[name] * parts["loss"]
            total = weighted if total is None else total + weighted
            values[name] = parts["loss"].detach()
            values.update({f"{name}.{part}": value.detach() for part, value in parts.items() if part != "loss"})
        if self.sources is not None:
            values.update(self.sources(batch))
        return {"loss": total, **values}

    def rate_of(self, name: str, head: float, bias: float | None) -> float:
        """As `Loss.rate_of`, of a parameter of one of the losses."""
        _, loss, of_loss = name.split(".", 2)
        return self.losses[loss].rate_of(of_loss, head, bias)

    def call(self, hook: str, *arguments: Any) -> None:
        """Call "prepare", "before_epoch" or "after_step" of every loss."""
        for loss in self.losses.values():
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
            raise ConfigError(f"--set loss.{name}: '{name}' is not one of the losses ({', '.join(weights)})")
    return Objective({name: build_loss(name, dict(dims), **options.get(name, {})) for name in weights}, weights)


def _outputs_of(losses: Mapping[str, Loss | type[Loss]]) -> dict[str, Output]:
    """What losses bring, by name.

    Raises:
        ConfigError: two of them bring different outputs under one name.
    """
    brought: dict[str, Output] = {}
    for name, loss in losses.items():
        for output, what in loss.outputs.items():
            if brought.setdefault(output, what) != what:
                raise ConfigError(
                    f"loss '{name}' brings an output '{output}' that another loss defines differently; omit one of the "
                    "two"
                )
    return brought


def loss_columns(names: Iterable[str]) -> dict[str, str]:
    """Columns of the data that losses ask for in addition to the usual ones -> "text", "numbers" or "image".

    Args:
        names: of losses.

    Raises:
        UnknownNameError: no loss has that name. ConfigError: see `outputs_of`.
    """
    brought = _outputs_of({name: loss_class(name) for name in names})
    return {output.column: output.column_kind for output in brought.values() if output.column}


def need_images_alone(names: Iterable[str]) -> bool:
    """Whether losses are computed of nothing but images: no texts, labels or columns.

    Args:
        names: of losses.

    Raises:
        UnknownNameError: no loss has that name.
    """
    for name in names:
        cls = loss_class(name)
        outputs = {**OUTPUTS, **cls.outputs}
        needed = [outputs[need] for need in cls.needs if need in outputs]
        if any(each.column or set(each.fields) & NOT_OF_IMAGES for each in needed):
            return False
        if any(not each.fields for each in needed):
            return False
    return True


def need_classes(names: Iterable[str]) -> bool:
    """Whether a loss compares labelled images with the texts of all classes.

    Args:
        names: of losses.

    Raises:
        UnknownNameError: no loss has that name.
    """
    return any({"labels", "class_features"} <= loss_class(name).needs for name in names)


def need_sentences_alone(names: Iterable[str]) -> bool:
    """Whether losses are computed of sentences and their translations, and of nothing else.

    Args:
        names: of losses.

    Raises:
        UnknownNameError: no loss has that name.
    """
    fields: set[str] = set()
    for name in names:
        cls = loss_class(name)
        outputs = {**OUTPUTS, **cls.outputs}
        needed = [outputs[need] for need in cls.needs if need in outputs]
        fields.update(field for each in needed for field in each.fields)
        fields.update(each.column for each in needed if each.column)
    return TRANSLATED in fields and fields <= {TRANSLATED, "tokens"}


def parse_losses(named: Iterable[str]) -> dict[str, float]:
    """["clip", "silc=0.5"] -> {"clip": 1.0, "silc": 0.5}.

    Raises:
        ConfigError: a weight that is not a number above 0, or a name given twice.
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
        _check_weight(name, weights[name])
    return weights


def _check_weight(name: str, weight: float) -> None:
    if not (math.isfinite(weight) and weight > 0):
        raise ConfigError(f"--loss {name}={weight}: give a weight above 0")

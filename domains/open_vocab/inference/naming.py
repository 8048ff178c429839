"""Which classes a model knows now, and how its numbers become those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from ....core.contracts.errors import CapabilityError
from ..data.classes import check_names, class_positions
from ..text_embeddings import set_classes
from ..vocabulary import Vocabulary, described_classes


def known_names(model: nn.Module) -> tuple[str, ...]:
    """The classes that the model's numbers stand for."""
    asked = getattr(model, "asked_for", None)
    return tuple(asked or model.cfg.vladapt.classes)


def ask_for(model: nn.Module, classes: Any) -> tuple[str, ...]:
    """Give a model other class names, in place.

    Raises:
        CapabilityError: no part of it takes names.
    """
    vocabulary: Vocabulary = set_classes(model, classes)
    model.asked_for = vocabulary.names
    return vocabulary.names


def with_background(model: nn.Module, classes: Any) -> Any:
    """Class names with the background that the model has learned, where they do not name it: else every pixel would be
    one of them."""
    learned = {getattr(module, "background_class", None) for module in model.modules()} & set(known_names(model))
    said = described_classes(classes) if learned else {}
    missing = learned - set(said)
    return {**{name: {} for name in missing}, **said} if missing else classes


def as_in_data(model: nn.Module, class_names: Sequence[str]) -> np.ndarray:
    """(C,) of each of the model's classes its number in the data.

    Where the model was not asked for other names than it learned, and takes names, it is asked for the data's.

    Raises:
        ConfigError: the model's classes are others than the data's, with both lists.
    """
    names = known_names(model)
    if set(names) != set(class_names) and takes_names(model) and getattr(model, "asked_for", None) is None:
        names = ask_for(model, described(model, class_names))
    if takes_names(model):
        check_names(None, class_names, names)
    else:
        check_names(names, class_names)
    return np.array(class_positions(names, class_names))


def described(model: nn.Module, names: Sequence[str]) -> Mapping[str, Any] | Sequence[str]:
    """The names with what the training's vocabulary said of them, where it said anything."""
    said = dict(model.cfg.vladapt.get("described") or {})
    return {name: dict(said[name]) if name in said else [] for name in names} if said else list(names)


def takes_names(model: nn.Module) -> bool:
    """Whether a part of the model has texts as classes."""
    return any(hasattr(module, "take_classes") for module in model.modules())


def refuse_fixed(model: nn.Module) -> None:
    """Raise the CapabilityError of a model whose classes cannot be changed."""
    if not takes_names(model):
        raise CapabilityError(
            "--classes: nothing in this model takes class names, its classes are "
            f"{', '.join(known_names(model))}; train one with a text classifier (docs/open-vocab.md)"
        )

"""How objects of ours are shown: in three lines at most, whatever they hold."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import shortened

MOST, MOST_OF_VALUE = 360, 90


def in_short(instance: Any) -> str:
    """`__repr__` of a dataclass: the fields that do not have their defaults, arrays by their shapes, and what is long
    by its kind and size."""
    values = [(each, _value(getattr(instance, each.name, each.default))) for each in fields(instance) if each.repr]
    shown = [f"{each.name}={value}" for each, value in values if value != _value(each.default)]
    return shortened(f"{type(instance).__name__}({', '.join(shown)})", MOST)


def _value(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} {tuple(shape)}"
    if isinstance(value, (str, Path, int, float, bool, type(None))):
        return shortened(repr(value), MOST_OF_VALUE)
    if isinstance(value, Collection) and len(value) > 3:
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= MOST_OF_VALUE and "\n" not in text else f"{type(value).__name__}(…)"

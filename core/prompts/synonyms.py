"""Synonyms of class names from a JSON file, with how often each was met in captions.

As counted by Parashar et al., The Neglected Tails in Vision-Language Models, 2024, arXiv 2401.12425 (REAL).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.errors import DataError, did_you_mean
from .class_json import read_class_json
from .templates import spoken

SHAPE = "write {class: {synonym: count}}, or {class: [synonyms, the most frequent first]}"

Synonyms = tuple[tuple[str, float], ...]


def read_synonyms(path: str | Path, class_names: Sequence[str]) -> tuple[Synonyms, ...]:
    """C tuples of (synonym, count), the most frequent first.

    A list stands for counts that fall by one. A class the file does not name has its own name alone. Names are matched
    without regard to case, and to spaces against underscores.

    Raises:
        DataError: the file cannot be read, is not JSON or of another shape, or names a class the data does not have.
    """
    path = Path(path)
    found: dict[str, Synonyms] = {}
    own = {_key(name): name for name in class_names}
    for name, value in read_class_json(path, SHAPE).items():
        if _key(name) not in own:
            raise DataError(f"{path}: names '{name}', no class of the data; {did_you_mean(name, class_names)}")
        found[own[_key(name)]] = _counted(path, name, value)
    return tuple(found.get(name) or ((spoken(name), 0.0),) for name in class_names)


def _counted(path: Path, name: str, value: Any) -> Synonyms:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(synonym, len(value) - place) for place, synonym in enumerate(value)]
    else:
        pairs = []
    usable = pairs and all(isinstance(word, str) and word.strip() and _is_count(count) for word, count in pairs)
    if not usable:
        raise DataError(f"{path}: class '{name}' has no usable synonyms; {SHAPE}")
    return tuple(sorted(((spoken(word), float(count)) for word, count in pairs), key=lambda pair: -pair[1]))


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")


def _key(name: str) -> str:
    return spoken(name).casefold()

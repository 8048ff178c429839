"""Per-class sentences from a JSON file `{class: [sentences]}`.

The format of CuPL: Pratt et al., What does a platypus look like? Generating customized prompts for zero-shot image
classification, 2022, arXiv 2209.03320.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.errors import DataError, did_you_mean
from .class_json import read_class_json
from .templates import spoken


def read_descriptions(
    path: str | Path, class_names: Sequence[str], *, others: bool = False
) -> dict[str, list[str]]:
    """Class name (as in `class_names`, in that order) -> its sentences.

    Names are matched without regard to case, and to spaces against underscores.

    Args:
        others: let the file describe further classes, where `class_names` is a part of a set's classes.

    Raises:
        DataError: the file cannot be read, is not JSON or of another shape, lacks a class, or names an unknown one.
    """
    path = Path(path)
    found = _by_key(read_class_json(path, "write {class: [sentences]}"), path)
    known = {_key(name): name for name in class_names}
    for key, (name, _) in found.items():
        if key not in known and not others:
            raise DataError(f"{path}: describes '{name}', no class of the data; {did_you_mean(name, class_names)}")
    described: dict[str, list[str]] = {}
    for name in class_names:
        if _key(name) not in found:
            in_file = [there for there, _ in found.values()]
            raise DataError(f"{path}: has no sentences for class '{name}'; {_nearest_there(name, in_file)}")
        described[name] = found[_key(name)][1]
    return described


def _by_key(content: dict[str, Any], path: Path) -> dict[str, tuple[str, list[str]]]:
    """Comparable name -> (name in the file, its sentences)."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name, sentences in content.items():
        usable = isinstance(sentences, list) and sentences and all(isinstance(s, str) and s.strip() for s in sentences)
        if not usable:
            raise DataError(f"{path}: class '{name}' needs a list of sentences, at least one and none of them empty")
        if _key(name) in found:
            raise DataError(f"{path}: describes '{found[_key(name)][0]}' and '{name}', the same class; keep one")
        found[_key(name)] = (name, [" ".join(s.split()) for s in sentences])
    return found


def _key(name: str) -> str:
    return spoken(name).casefold()


def _nearest_there(name: str, in_file: list[str]) -> str:
    return f"in the file, {did_you_mean(name, in_file)}" if in_file else "add them"

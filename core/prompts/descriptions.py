"""What is said of classes besides their names: descriptions and synonyms, from JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.items import spoken
from ..errors import DataError, did_you_mean
from ..runtime.reading import read_json
from .languages import name_key


def read_descriptions(path: str | Path, class_names: Sequence[str], *, others: bool = False) -> dict[str, list[str]]:
    """Class name (as in `class_names`, in that order) -> its sentences.

    Names are matched without regard to case, and to spaces against underscores.

    Args:
        others: let the file describe further classes, where `class_names` is a part of a set's classes.

    Raises:
        DataError: the file cannot be read, is not JSON or of another shape, lacks a class, or names an unknown one.
    """
    path = Path(path)
    by_key = _by_key(_read_object(path, "write {class: [sentences]}"), path)
    known = {name_key(name): name for name in class_names}
    for key, (name, _) in by_key.items():
        if key not in known and not others:
            raise DataError(f"{path}: describes '{name}', not a class of the data; {did_you_mean(name, class_names)}")
    described: dict[str, list[str]] = {}
    for name in class_names:
        if name_key(name) not in by_key:
            there = [other for other, _ in by_key.values()]
            cure = f"in the file, {did_you_mean(name, there)}" if there else "add them"
            raise DataError(f"{path}: has no sentences for class '{name}'; {cure}")
        described[name] = by_key[name_key(name)][1]
    return described


def _by_key(content: dict[str, Any], path: Path) -> dict[str, tuple[str, list[str]]]:
    """Comparable name -> (name in the file, its sentences)."""
    by_key: dict[str, tuple[str, list[str]]] = {}
    for name, sentences in content.items():
        usable = isinstance(sentences, list) and sentences and all(isinstance(s, str) and s.strip() for s in sentences)
        if not usable:
            raise DataError(f"{path}: class '{name}' needs a list of sentences, at least one and none of them empty")
        if name_key(name) in by_key:
            raise DataError(f"{path}: describes '{by_key[name_key(name)][0]}' and '{name}', the same class; keep one")
        by_key[name_key(name)] = (name, [" ".join(s.split()) for s in sentences])
    return by_key


def _read_object(path: Path, wanted: str) -> dict[str, Any]:
    """The object in the file, not empty.

    Args:
        wanted: what to write there, for messages: "write {class: [sentences]}".

    Raises:
        DataError: the file cannot be read, is not JSON, or holds something else.
    """
    content = read_json(path, wanted)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: holds no object of classes; {wanted}")
    return content


PAIRS = "write {class: {other class: [sentences about the first]}}"


def read_pair_attributes(path: str | Path, class_names: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Class -> other class -> sentences that tell the first from the other, all as in `class_names`.

    Pairs of classes that the data does not have are passed over. Names are matched as in `read_descriptions`.

    Raises:
        DataError: the file cannot be read, is not JSON or of another shape, or has no pair of the data's classes.
    """
    path = Path(path)
    name_of, found = {name_key(name): name for name in class_names}, {}
    for name, others in _read_object(path, PAIRS).items():
        if not isinstance(others, dict):
            raise DataError(f"{path}: class '{name}' has no other classes; {PAIRS}")
        for other, (_, sentences) in _by_key(others, path).items():
            if name_key(name) in name_of and other in name_of and name_key(name) != other:
                found.setdefault(name_of[name_key(name)], {})[name_of[other]] = tuple(sentences)
    if not found:
        raise DataError(f"{path}: no two classes of the data are compared; {PAIRS}")
    return found


def read_word_sentences(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Word, as in the file -> its sentences.

    Raises:
        DataError: the file cannot be read, is not JSON or of another shape.
    """
    path = Path(path)
    by_key = _by_key(_read_object(path, "write {word: [sentences]}"), path)
    return {name: tuple(sentences) for name, sentences in by_key.values()}


# As counted by Parashar et al., The Neglected Tails in Vision-Language Models, 2024, arXiv 2401.12425 (REAL).

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
    synonyms: dict[str, Synonyms] = {}
    name_of = {name_key(name): name for name in class_names}
    for name, value in _read_object(path, SHAPE).items():
        if name_key(name) not in name_of:
            raise DataError(f"{path}: names '{name}', not a class of the data; {did_you_mean(name, class_names)}")
        synonyms[name_of[name_key(name)]] = _counted(path, name, value)
    return tuple(synonyms.get(name) or ((spoken(name), 0.0),) for name in class_names)


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

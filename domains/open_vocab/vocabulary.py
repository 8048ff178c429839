"""What may be found in an image: names of classes, each with the texts that stand for it.

A class has one query per synonym, a query the mean of its prompts' embeddings: of its templates, filled with the
synonym, and of its descriptions (Radford et al., CLIP, 2021, arXiv 2103.00020; for several names per class Wang et al.,
SCLIP, 2023, arXiv 2312.01597, take the best of their scores).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.backbones import load_backbone
from ...core.contracts import Backbone, spoken
from ...core.errors import CapabilityError, ConfigError, DataError, did_you_mean
from ...core.features import FeatureStore
from ...core.prompts import check_templates, fill
from ...core.runtime import read_json, read_text

SETS = ("name", "photo", "imagenet-7", "imagenet-80")
"""Named sets of templates."""
FILES = (".txt", ".json")
IMAGENET_SEVEN: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The subset of CLIP's 80 ImageNet templates that its authors chose, used by Tip-Adapter and APE."""
MOST_BYTES = 64 << 20
"""Of a file of names."""
JSON_SHAPE = 'write {class: [descriptions]}, or {class: {"synonyms": [...], "descriptions": [...]}}'

Classes = str | Path | Sequence[str] | Mapping[str, Any]


_text_folder: ContextVar[str | None] = ContextVar("text_folder", default=None)


@dataclass(frozen=True)
class Vocabulary:
    """C classes and Q queries, Q at least C.

    Args:
        names: C names, as in the data.
        queries: Q tuples of prompts.
        owners: Q class indices: whose query it is, in ascending order.
    """

    names: tuple[str, ...]
    queries: tuple[tuple[str, ...], ...]
    owners: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, classes: Classes, templates: str | Sequence[str] = "photo") -> Vocabulary:
        """The vocabulary that a user names.

        Args:
            classes: "a, b, c"; a list of names; a text file with one class per line, its synonyms after it, comma-
                separated; a JSON file or a mapping, {class: [descriptions]} or {class: {"synonyms": [...],
                "descriptions": [...]}}. A synonym list holds further names; the class's own name counts too.
            templates: texts with `{}`, or one of `SETS`.

        Raises:
            ConfigError: no name, a name twice, or templates that cannot be used.
            DataError: a file that cannot be read, or of another shape.
        """
        described = _described(classes)
        filled = named_templates(templates)
        queries, owners = [], []
        for index, (name, (synonyms, descriptions)) in enumerate(described.items()):
            for word in dict.fromkeys((name, *synonyms)):
                queries.append((*fill(filled, word), *descriptions))
                owners.append(index)
        return cls(tuple(described), tuple(queries), tuple(owners))

    def position(self, name: str) -> int | None:
        """Index of the first class of that name; None: there is none."""
        names = [alike(each) for each in self.names]
        return names.index(alike(name)) if alike(name) in names else None

    def without(self, index: int | None) -> Vocabulary:
        """The vocabulary less one class; None: all of it."""
        left = [place for place in range(len(self)) if place != index]
        kept = [(left.index(owner), query) for owner, query in zip(self.owners, self.queries) if owner != index]
        owners, queries = zip(*kept) if kept else ((), ())
        return Vocabulary(tuple(self.names[place] for place in left), queries, owners)


def alike(name: str) -> str:
    """A key that spellings of one name share."""
    return spoken(name).casefold()


class NamedClasses(ABC):
    """Base of parts of models whose classes are texts; `text_embeddings.set_classes` reaches each of them."""

    @abstractmethod
    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the classes by these."""


UNASKED = "object"
"""What a model is asked for that is asked by texts, where none are given."""


class ClosedNames(ABC):
    """Base of models whose classes are the rows of a head, some of which can be asked for alone."""

    @abstractmethod
    def choose_names(self, rows: Sequence[int] | None) -> None:
        """Look for these rows alone, whose places are the labels from now on; None for all."""


def named_templates(templates: str | Sequence[str]) -> list[str]:
    """Templates by the name of their set, or as they are.

    Raises:
        ConfigError: no set of that name, or a template without `{}`. CapabilityError: the set needs open_clip.
    """
    if not isinstance(templates, str) or "{}" in templates:
        return check_templates(templates)
    if templates not in SETS:
        raise ConfigError(f"templates '{templates}': give a text with {{}}, or a set; {did_you_mean(templates, SETS)}")
    if templates == "imagenet-80":
        return _eighty()
    return list({"name": ("{}",), "photo": ("a photo of a {}.",), "imagenet-7": IMAGENET_SEVEN}[templates])


@contextmanager
def texts_kept_in(folder: str) -> Iterator[None]:
    """A context in which encoded texts are looked up, and kept, in another folder than the cache of features."""
    before = _text_folder.set(folder)
    try:
        yield
    finally:
        _text_folder.reset(before)


@torch.no_grad()
def embed_queries(vocabulary: Vocabulary, backbone: Backbone) -> Tensor:
    """(Q, D) unit rows on the CPU. Every distinct text is encoded once, in chunks, and stored for the next time."""
    distinct = list(dict.fromkeys(text for query in vocabulary.queries for text in query))
    place = {text: row for row, text in enumerate(distinct)}
    encoded = F.normalize(FeatureStore(_text_folder.get()).text_features(backbone, distinct).float(), dim=-1)  # (T, D)
    sizes = torch.tensor([len(query) for query in vocabulary.queries])
    rows = torch.tensor([place[text] for query in vocabulary.queries for text in query])
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    sums = torch.zeros(len(sizes), encoded.shape[1]).index_add_(0, owner, encoded[rows])
    return F.normalize(sums, dim=-1)


def embed_classes(vocabulary: Vocabulary, backbone: Backbone) -> Tensor:
    """(C, D) unit rows on the CPU: of each class the mean of its queries, made unit."""
    queries = embed_queries(vocabulary, backbone)
    owners = torch.tensor(vocabulary.owners)
    return F.normalize(torch.zeros(len(vocabulary), queries.shape[1]).index_add_(0, owners, queries), dim=-1)


def encode_classes(vocabulary: Vocabulary, backbone: Backbone) -> Tensor:
    """(C, D) as `embed_classes`, by a tower that is being trained: with gradients, and stored nowhere."""
    queries = F.normalize(backbone.text_means(vocabulary.queries), dim=-1)  # (Q, D)
    owners = torch.tensor(vocabulary.owners, device=queries.device)
    return F.normalize(queries.new_zeros(len(vocabulary), queries.shape[1]).index_add(0, owners, queries), dim=-1)


@lru_cache(maxsize=4)
def text_backbone(spec: str, device: str = "cpu") -> Backbone:
    """A frozen backbone to encode texts with, one for all who ask in this process. Its model is built at first use."""
    return load_backbone(spec, device=device)


def described_classes(classes: Classes) -> dict[str, dict[str, list[str]]]:
    """Class name -> what a user says of it, {"synonyms": [...], "descriptions": [...]} or {} where that is nothing.

    Raises:
        ConfigError, DataError: as `Vocabulary.of`.
    """
    return {
        name: {"synonyms": list(synonyms), "descriptions": list(descriptions)} if synonyms or descriptions else {}
        for name, (synonyms, descriptions) in _described(classes).items()
    }


def _described(classes: Classes) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Class name -> (synonyms, descriptions)."""
    if isinstance(classes, Mapping):
        return _entries(classes, "classes")
    if isinstance(classes, Path) or (isinstance(classes, str) and _is_file(classes)):
        return _from_file(Path(classes))
    listed = classes.split(",") if isinstance(classes, str) else list(classes)
    names = [str(name).strip() for name in listed]
    return _checked({name: ((), ()) for name in names if name}, [name for name in names if name])


def _is_file(text: str) -> bool:
    suffix = Path(text).suffix.lower()
    return "," not in text and (suffix in FILES or (suffix != "" and os.path.isfile(text)))


def _from_file(path: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    if path.suffix.lower() not in FILES:
        raise DataError(f"{path}: names come from a .txt or .json file; write one class per line, or {JSON_SHAPE[6:]}")
    if path.suffix.lower() == ".json":
        content = read_json(path, JSON_SHAPE)
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path}: holds no object of classes; {JSON_SHAPE}")
        return _entries(content, path)
    lines = read_text(path, "write one class per line", MOST_BYTES).splitlines()
    rows = [[part.strip() for part in line.split(",") if part.strip()] for line in lines if line.strip()]
    return _checked({row[0]: (tuple(row[1:]), ()) for row in rows if row}, [row[0] for row in rows if row])


def _entries(content: Mapping[str, Any], where: str | Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    named = {str(name).strip(): _entry(name, value, where) for name, value in content.items() if str(name).strip()}
    return _checked(named, [str(name).strip() for name in content if str(name).strip()])


def _entry(name: str, value: Any, where: str | Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    parts = value if isinstance(value, Mapping) else {"descriptions": value}
    lists = [parts.get(key, []) for key in ("synonyms", "descriptions")]
    known = set(parts) <= {"synonyms", "descriptions"}
    if not known or not all(isinstance(texts, (list, tuple)) and all(map(_is_text, texts)) for texts in lists):
        raise DataError(f"{where}: class '{name}' is described in another form; {JSON_SHAPE}")
    synonyms, descriptions = (tuple(" ".join(text.split()) for text in texts) for texts in lists)
    return synonyms, descriptions


def _checked(described: dict, listed: Sequence[str]) -> dict:
    if not listed:
        raise ConfigError("--classes names no class; give names, comma-separated, or a file of them")
    seen: dict[str, str] = {}
    for name in listed:
        key = alike(name)
        if key in seen:
            raise ConfigError(f"--classes: '{seen[key]}' and '{name}' are the same class; remove one")
        seen[key] = name
    return described


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _eighty() -> list[str]:
    try:
        from open_clip import OPENAI_IMAGENET_TEMPLATES
    except ModuleNotFoundError:
        raise CapabilityError(
            "templates 'imagenet-80' come with open_clip; install it with: pip install 'vladapt[open-clip]'"
        ) from None
    return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]

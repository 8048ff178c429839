"""Sets in CLIP_benchmark's own layout, by their own prompts: classification, several labels, retrieval.

The layout is that of the data sets which the project publishes on the hub, and of its export
(github.com/LAION-AI/CLIP_benchmark): `test/nshards.txt`, `test/0.tar` and so on, `classnames.txt`,
`zeroshot_classification_templates.txt`, and `dataset_type.txt` where the set is no plain classification.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...contracts.bench import BenchScore, BenchSet, BenchTowers
from ...errors import DataError, shortened
from ...runtime.reading import read_text
from ..scoring import classification_scores, retrieval_scores, several_labels_scores
from ..shards import ShardSamples

IMAGES = ("webp", "png", "jpg", "jpeg")
SHARDS, NAMES, TEMPLATES, TYPE = (
    "nshards.txt",
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "dataset_type.txt",
)
CLASSIFICATION, SEVERAL, RETRIEVAL = "classification", "multilabel", "retrieval"
BESIDE = {CLASSIFICATION: "cls", SEVERAL: "npy", RETRIEVAL: "txt"}
"""Type of a set -> ending of what lies beside an image."""
PLACES = ("{c}", "{}")
"""Of the class name in a template."""
PREFIXES = ("wds_", "wds-", "vtab-", "vtab_")
"""Of names of folders, before the name that results have."""
MOST_SHARDS = 100_000


@dataclass(eq=False, kw_only=True)
class ClipBenchmark(BenchSet):
    """Zero-shot classification and retrieval as "Reproducible Scaling Laws for Contrastive Language-Image Learning"
    (Cherti et al. 2022, arXiv 2212.07143) reports them: a class is the mean of the unit features of its filled
    templates, made unit again; a query of retrieval hits where any of its texts, or its image, is among the first K.
    """

    type: str = field(default="", init=False)
    class_names: tuple[str, ...] = field(default=(), init=False)
    templates: tuple[str, ...] = field(default=(), init=False)
    samples: ShardSamples | None = field(default=None, init=False, repr=False)
    targets: Tensor | None = field(default=None, init=False, repr=False)
    captions: list[list[str]] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return (place / "test" / SHARDS).is_file()

    @property
    def published_as(self) -> str:
        name = self.title.lower()
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        return name

    @property
    def size(self) -> int:
        return 0 if self.samples is None else len(self.samples.items)

    def check(self, towers: BenchTowers) -> None:
        assert self.folder is not None
        if self.samples is not None:
            return
        self.type = _type(self.folder)
        samples = ShardSamples.read(_shards(self.folder / "test"), IMAGES, BESIDE[self.type])
        if self.type == RETRIEVAL:
            self.captions = [_captions(samples, row) for row in range(len(samples.items))]
        else:
            self.class_names, self.templates = _lines(self.folder / NAMES), _lines(self.folder / TEMPLATES)
            for template in self.templates:
                if not any(place in template for place in PLACES):
                    where = self.folder / TEMPLATES
                    raise DataError(f"{where}: '{shortened(template)}' has no {{c}} for the class name; correct it")
            if len(self.class_names) < 2:
                raise DataError(f"{self.folder / NAMES}: one class; a classification has two or more")
            target = _label if self.type == CLASSIFICATION else _labels
            rows = [target(samples, row, len(self.class_names)) for row in range(len(samples.items))]
            self.targets = torch.tensor(np.array(rows))
        self.samples = samples

    def prompts(self) -> list[list[str]]:
        """C lists of filled templates; names as they stand in the file."""
        return [[_filled(template, name) for template in self.templates] for name in self.class_names]

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        assert self.samples is not None
        images, rows = towers.images(self.samples.data(self.title))
        if self.type == RETRIEVAL:
            captions = [(place, text) for place, row in enumerate(rows) for text in self.captions[row]]
            texts = towers.texts([text for _, text in captions])
            return retrieval_scores(images, texts, torch.tensor([place for place, _ in captions]))
        assert self.targets is not None
        classes, targets = towers.class_vectors(self.prompts()), self.targets[rows]
        if self.type == CLASSIFICATION:
            return classification_scores(images, classes, targets)
        return several_labels_scores(images @ classes.T, targets, self.class_names)


def _type(folder: Path) -> str:
    if not (folder / TYPE).is_file():
        return CLASSIFICATION
    name = read_text(folder / TYPE).strip().lower()
    if name not in BESIDE:
        raise DataError(f"{folder / TYPE}: '{shortened(name)}' is none of {', '.join(BESIDE)}; correct it")
    return name


def _shards(folder: Path) -> list[Path]:
    text = read_text(folder / SHARDS).strip()
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SHARDS:
        raise DataError(f"{folder / SHARDS}: '{shortened(text)}' is no number of shards; fetch it again")
    return [folder / f"{number}.tar" for number in range(int(text))]


def _lines(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise DataError(f"{file}: missing; fetch it again: classes are named by {NAMES} and {TEMPLATES}")
    lines = tuple(line.strip() for line in read_text(file).strip().split("\n"))
    if "" in lines:
        raise DataError(f"{file}: line {lines.index('') + 1} is empty, and labels count lines; fetch it again")
    return lines


def _filled(template: str, name: str) -> str:
    for place in PLACES:
        template = template.replace(place, name)
    return template


def _label(samples: ShardSamples, row: int, classes: int) -> int:
    text = samples.beside[row].decode("utf-8", "replace").strip()
    if not text.isdecimal() or int(text) >= classes:
        wrong = f"its label is '{shortened(text)}', {NAMES} has {classes} names"
        raise DataError(f"{samples.items[row].source}: {samples.items[row].id}: {wrong}; fetch the set again")
    return int(text)


def _labels(samples: ShardSamples, row: int, classes: int) -> np.ndarray:
    """(C,) of 0 and 1."""
    item = samples.items[row]
    try:
        values = np.load(io.BytesIO(samples.beside[row]), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{item.source}: {item.id}: its labels cannot be read; fetch the set again") from error
    if values.shape != (classes,) or not np.isin(values, (0, 1)).all():
        wrong = f"its labels have shape {values.shape}; {classes} of 0 or 1 are needed, as {NAMES} has names"
        raise DataError(f"{item.source}: {item.id}: {wrong}")
    return values.astype(np.int64)


def _captions(samples: ShardSamples, row: int) -> list[str]:
    lines = samples.beside[row].decode("utf-8", "replace").split("\n")
    texts = [text for line in lines if (text := line.strip())]
    if not texts:
        item = samples.items[row]
        raise DataError(f"{item.source}: {item.id}: no caption in its .txt; fetch the set again")
    return texts

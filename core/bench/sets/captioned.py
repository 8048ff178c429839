"""Images with captions as `fit --task retrieval` reads them: tables, annotation files, tars, texts beside images."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ...contracts.bench import BenchScore, BenchSet, BenchTowers
from ...contracts.items import DomainData, Item
from ...data.files import ItemCollector, walk
from ...data.images import IMAGE
from ...data.pairs.pair_set import PairSet
from ...data.pairs.reading import read_pairs
from ...data.pairs.record_fields import RecordColumns
from ...errors import DataError
from ...retrieval.image_reader import pair_item
from ..scoring import retrieval_scores

LOOKED_AT = 200
"""Files of a folder that are looked at for texts beside images."""
HEADER_CHARACTERS = 1 << 16


@dataclass(eq=False, kw_only=True)
class Captioned(BenchSet):
    """Retrieval of the test images and their captions, or of all where the data name no split: R@1, R@5 and R@10 in
    both directions. Any caption of an image counts, as in "VSE++: Improving Visual-Semantic Embeddings with Hard
    Negatives" (Faghri et al. 2017, arXiv 1707.05612)."""

    fallback = 1

    pairs: PairSet | None = field(default=None, init=False, repr=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        if place.is_dir():
            named = (*PairSet.JSON_NAMES, "*.tar")
            return any(next(place.glob(pattern), None) for pattern in named) or _has_texts_beside(place)
        if place.suffix.lower() in PairSet.TABLES:
            names = RecordColumns(_header(place)).of
            return {"image", "caption"} <= names.keys() and "label" not in names
        return place.suffix.lower() == ".tar" or any(fnmatch(place.name, name) for name in PairSet.JSON_NAMES)

    @property
    def title(self) -> str:
        return super().title if self.pairs is None or not self.pairs.name else self.pairs.name

    @property
    def size(self) -> int:
        return 0 if self.pairs is None else len(self.pairs)

    @property
    def notes(self) -> list[str]:
        return [] if self.pairs is None else self.pairs.notes

    def check(self, towers: BenchTowers) -> None:
        if self.pairs is not None:
            return
        pairs = read_pairs(str(self.folder), split="test")
        if not len(pairs):
            raise DataError(f"--data {self.folder}: no test images with captions; give some, or data without splits")
        self.pairs = pairs

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        assert self.pairs is not None
        listed = list(self.pairs)
        row_of = {pair.id: row for row, pair in enumerate(listed)}
        load = self.pairs.load_image

        def decoded(item: Item) -> Any:
            return load(row_of[item.id])

        data = DomainData([pair_item(pair) for pair in listed], (), decoded, "captions", self.title)
        images, rows = towers.images(data)
        captions = [(place, text) for place, row in enumerate(rows) for text in listed[row].captions]
        texts, image_of_text = towers.texts([text for _, text in captions]), [place for place, _ in captions]
        groups = [listed[row].group for row in rows]
        return retrieval_scores(images, texts, torch.tensor(image_of_text), groups=groups)


def _header(file: Path) -> list[str]:
    """Names of the columns of a table; none where its first line is no header."""
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        line = opened.readline(HEADER_CHARACTERS)
    if file.suffix.lower() in (".csv", ".tsv"):
        return next(csv.reader([line], delimiter="\t" if file.suffix.lower() == ".tsv" else ","), [])
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return list(record) if isinstance(record, dict) else []


def _has_texts_beside(folder: Path) -> bool:
    files = islice(walk(folder, folder, ItemCollector()), LOOKED_AT)
    return any(file.suffix.lower() in IMAGE.suffixes and file.with_suffix(".txt").is_file() for file in files)

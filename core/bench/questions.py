"""Sets of questions: which caption an image has, or which of several images a caption means."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts.bench import BenchScore, BenchSet, BenchTowers
from ..contracts.items import DomainData, Item, Question
from ..data.files import locate
from ..data.images import decode_image
from ..errors import DataError, shortened
from ..metrics.compositional import GUESSED_PAIRS, paired_rightly

QUESTIONS_AT_ONCE = 1024
PLACES = ("", "images")
"""Folders of a set in which images are looked for where an option names none, besides those of its own layout."""


@dataclass(eq=False, kw_only=True)
class QuestionSet(BenchSet):
    """Base of sets that ask questions, all of as many images and as many texts."""

    data: DomainData | None = field(default=None, init=False, repr=False)
    asked: list[Question] = field(default_factory=list, init=False, repr=False)

    @abstractmethod
    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        """The images and the questions.

        Args:
            seed: of what is drawn.

        Raises:
            DataError: files are missing, damaged or of another version.
        """

    @abstractmethod
    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        """The scores of questions whose images could be read.

        Args:
            scores: (Q, I, T) of the images and texts of each.
            units: (Q,) int64; questions about one picture belong together.
        """

    @property
    def size(self) -> int:
        return 0 if self.data is None else len(self.data.items)

    def check(self, towers: BenchTowers) -> None:
        if self.data is None:
            self.data, self.asked = self.read(towers.seed)

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        assert self.data is not None
        images, rows = towers.images(self.data)
        row_of = {self.data.items[row].id: place for place, row in enumerate(rows)}
        asked = [each for each in self.asked if all(image in row_of for image in each.images)]
        if not asked:
            raise DataError(f"{self.title}: no question has all its images; fetch them again")
        row_of_text = {text: row for row, text in enumerate(dict.fromkeys(t for each in asked for t in each.texts))}
        texts = towers.texts(list(row_of_text))
        image_rows = torch.tensor([[row_of[image] for image in each.images] for each in asked])  # (Q, I)
        text_rows = torch.tensor([[row_of_text[text] for text in each.texts] for each in asked])  # (Q, T)
        chunks = zip(image_rows.split(QUESTIONS_AT_ONCE), text_rows.split(QUESTIONS_AT_ONCE))
        scores = torch.cat([torch.einsum("qid,qtd->qit", images[some], texts[of]) for some, of in chunks])
        group_of = {item.id: item.group or item.id for item in self.data.items}
        number: dict[str, int] = {}
        units = [number.setdefault(group_of[each.images[0]], len(number)) for each in asked]
        return self.scores_of(asked, scores, torch.tensor(units))


def pair_scores(scores: Tensor, units: Tensor | None, part: str = "", ties: str = "wrong") -> list[BenchScore]:
    """Winoground's three: text, image and group, of (Q, 2, 2) scores."""
    right = paired_rightly(scores, ties)
    return [
        BenchScore.share(name, right[name], units=units, guessing=guessing, part=part)
        for name, guessing in GUESSED_PAIRS.items()
    ]


def image_items(
    names: Mapping[str, tuple[str, dict[str, Any]]], roots: Sequence[Path], listed_in: Path, cure: str
) -> list[Item]:
    """Items of images that a file lists.

    Args:
        names: id -> (name of the file, what of it is decoded).
        roots: folders that the names may be relative to.
        listed_in: the file, for messages.
        cure: where to get the images, and how to say where they lie.

    Raises:
        DataError: some are missing, or leave the folders.
    """
    there = [root for root in roots if root.is_dir()]
    files: dict[str, Path | None] = {}
    for name, _ in names.values():
        if name not in files:
            files[name] = locate(name, there or [listed_in.parent], str(listed_in))
    missing = [name for name, file in files.items() if file is None]
    if missing:
        where = ", ".join(map(str, there or roots))
        raise DataError(
            f"{listed_in}: {len(missing):,} of {len(files):,} images are not in {where}, the first is "
            f"'{shortened(missing[0])}'; {cure}"
        )
    return [
        Item(key, file, decode, group=name, split="test")
        for key, (name, decode) in names.items()
        if (file := files[name]) is not None
    ]


def image_data(items: list[Item], title: str) -> DomainData:
    """Image files as a data set."""
    return DomainData(items, (), _decoded, kind="captions", name=title)


def _decoded(item: Item):
    return decode_image(item.source, item.decode)


def entry_of(entry: Any, fields: Mapping[str, type | tuple[type, ...]], place: str, version: str) -> dict[str, Any]:
    """An entry of a file as a mapping that has some fields of some types.

    Args:
        place: "FILE entry 3", for messages.
        version: of the files that are read.

    Raises:
        DataError: it has not.
    """
    for name, kind in fields.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(name), kind) or isinstance(entry[name], bool):
            raise DataError(f"{place}: has no usable '{name}'; give the file of {version}")
    return entry

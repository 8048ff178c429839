"""VL-CheckList: each image with a text, and one in which an object, an attribute or a relation is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts.bench import BenchScore
from ...contracts.items import DomainData, Question
from ...contracts.options import option
from ...errors import DataError, shortened
from ...metrics.compositional import chosen_rightly
from ...runtime.reading import read_json
from ..questions import PLACES, QuestionSet, image_data, image_items

ASPECTS = (
    "Attribute/action",
    "Attribute/color",
    "Attribute/material",
    "Attribute/size",
    "Attribute/state",
    "Object/location",
    "Object/size",
    "Relation/action",
    "Relation/spatial",
)
TOPICS = ("Attribute", "Object", "Relation")
FOLDER_OF = {"vg": "vg", "vaw": "vg", "hake": "hake", "swig": "swig"}
"""Source of a file -> folder of its images: VAW's are Visual Genome's."""
LAYOUT = ("Attribute/*/*.json", "Object/*/*_*/**/*.json", "Relation/*.json", "Relation/*/*.json")
VERSION = "VL-CheckList (github.com/om-ai-lab/VL-CheckList, data/)"


@dataclass(eq=False, kw_only=True)
class VlChecklist(QuestionSet):
    """VL-CheckList: Evaluating Pre-trained Vision-Language Models with Objects, Attributes and Relations (Zhao et al.,
    2022, arXiv 2207.00221), on images of Visual Genome, HAKE and SWiG. As in the released evaluation, an image is right
    where the first of its positive texts scores above the first of its negative ones. "accuracy" is over all questions
    of an aspect, "macro_accuracy" the mean over aspects, of all and of those of attributes, objects and relations.
    The released charts weigh each source alike: `each` gives the rows that they are the means of."""

    images: str | None = option(
        None, "folder that holds vg/, hake/ and swig/; by default looked for beside the files", metavar="DIR"
    )
    sources: tuple[str, ...] = option(tuple(FOLDER_OF), "sources whose questions are asked", choices=tuple(FOLDER_OF))
    per_file: int | None = option(None, "questions of each file, the first; 1000 in released settings", low=1)
    each: bool = option(False, "also one row for each file")

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return bool(_files_in(place))

    @property
    def title(self) -> str:
        folder = Path(super().title if self.folder is None else self.folder.resolve())
        return folder.parent.name if folder.name == "data" else folder.name

    @property
    def notes(self) -> list[str]:
        asked = {_aspect_of(each.kind) for each in self.asked}
        if not (absent := [each for each in ASPECTS if each not in asked]):
            return []
        return [f"{self.title}: no questions of {', '.join(absent)}; means are over the other aspects."]

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        assert self.folder is not None
        asked: list[Question] = []
        names: dict[str, tuple[str, dict[str, Any]]] = {}
        for kind, file in _files_in(self.folder).items():
            if (source := _source_of(kind)) not in self.sources:
                continue
            entries = read_json(file)
            if not isinstance(entries, list):
                raise DataError(f"{file}: has no list of images with texts; give the file of {VERSION}")
            for number, entry in enumerate(entries[: self.per_file]):
                image, texts = _first_texts(entry, f"{file} entry {number}")
                name = f"{FOLDER_OF[source]}/{image}"
                names[name] = (name, {})
                asked.append(Question((name,), texts, 0, kind))
        if not asked:
            raise DataError(f"{self.folder}: no questions of {', '.join(self.sources)}; give the files of {VERSION}")
        beside = [self.folder / each for each in PLACES]
        roots = [Path(self.images)] if self.images else [*beside, self.folder.absolute().parent]
        cure = (
            "fetch them as DATASETS.md of VL-CheckList says, and name the folder of vg/, hake/ and swig/: --set "
            "vl-checklist.images=DIR, or ask of those that are there: --set vl-checklist.sources=vg,vaw"
        )
        return image_data(image_items(names, roots, self.folder, cure), self.title), asked

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        right = chosen_rightly(scores[:, 0], torch.tensor([each.answer for each in asked]))
        aspects = torch.tensor([ASPECTS.index(_aspect_of(each.kind)) for each in asked])
        made = []
        for number in aspects.unique().tolist():
            own = aspects == number
            made.append(BenchScore.share("accuracy", right[own], units=units[own], guessing=0.5, part=ASPECTS[number]))
        for topic in (*TOPICS, ""):
            own = torch.tensor([name.startswith(topic) for name in ASPECTS])[aspects]
            if own.any():
                how = {"units": units[own], "labels": aspects[own], "guessing": 0.5, "part": topic}
                made.append(BenchScore.share("macro_accuracy", right[own], **how))
        files = list(dict.fromkeys(each.kind for each in asked))
        places = torch.tensor([files.index(each.kind) for each in asked])
        for number, file in enumerate(files if self.each else ()):
            own = places == number
            made.append(BenchScore.share("accuracy", right[own], units=units[own], guessing=0.5, part=file))
        return made


def _files_in(folder: Path) -> dict[str, Path]:
    """The path without its ending, "Attribute/vg/color" -> file, of those whose path says an aspect and a source."""
    found = {}
    for file in sorted({file for pattern in LAYOUT for file in folder.glob(pattern)}):
        kind = file.relative_to(folder).with_suffix("").as_posix()
        if _aspect_of(kind) in ASPECTS and _source_of(kind) in FOLDER_OF:
            found[kind] = file
    return found


def _aspect_of(kind: str) -> str:
    """That of "Object/Location/vg_location/vg_obj_mid" is "Object/location"."""
    topic, *below = kind.split("/")
    return f"{topic}/{below[0].lower() if topic == 'Object' else below[-1].split('_')[-1]}"


def _source_of(kind: str) -> str:
    """That of "Object/Location/vg_location/vg_obj_mid" is "vg"."""
    topic, *below = kind.split("/")
    return below[1 if topic == "Object" else 0].split("_")[0]


def _first_texts(entry: Any, place: str) -> tuple[str, tuple[str, str]]:
    """The image of an entry, and its first positive and first negative text."""
    match entry:
        case [str(image), {"POS": [str(positive), *_], "NEG": [str(negative), *_]}]:
            return image, (positive, negative)
    raise DataError(
        f"{place}: '{shortened(str(entry))}' is no image with POS and NEG texts; give the file of {VERSION}"
    )

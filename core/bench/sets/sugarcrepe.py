"""SugarCrepe: each image with its caption and one that an object, an attribute or a relation makes wrong."""

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
from ...errors import DataError
from ...metrics.compositional import chosen_rightly
from ...runtime.reading import read_json
from ..questions import PLACES, QuestionSet, entry_of, image_data, image_items

KINDS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
FAMILIES = ("add", "replace", "swap")
FIELDS = {"filename": str, "caption": str, "negative_caption": str}
VERSION = "SugarCrepe (github.com/RAIVNLab/sugar-crepe, data/)"
OWN_PLACES = ("val2017", "images/val2017", "coco/images/val2017")


@dataclass(eq=False, kw_only=True)
class SugarCrepe(QuestionSet):
    """SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality (Hsieh et al., 2023, arXiv
    2306.14610): seven kinds of wrong captions of images of COCO val2017. An image is right where its caption scores
    above the wrong one. "macro_accuracy" is the mean over the kinds, of all and of those that add, replace or swap."""

    images: str | None = option(None, "folder of COCO's val2017; by default looked for beside the files", metavar="DIR")

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return sum((place / f"{kind}.json").is_file() for kind in KINDS) > 1

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        assert self.folder is not None
        asked: list[Question] = []
        for kind in KINDS:
            file = self.folder / f"{kind}.json"
            if not file.is_file():
                raise DataError(f"{file}: missing; give all seven files of {VERSION}")
            entries = read_json(file)
            if not isinstance(entries, dict) or not entries:
                raise DataError(f"{file}: has no entries by number; give the file of {VERSION}")
            for number, each in entries.items():
                entry = entry_of(each, FIELDS, f"{file} entry {number}", VERSION)
                asked.append(Question((entry["filename"],), (entry["caption"], entry["negative_caption"]), 0, kind))
        roots = [Path(self.images)] if self.images else [self.folder / each for each in (*OWN_PLACES, *PLACES)]
        names: dict[str, tuple[str, dict[str, Any]]] = {each.images[0]: (each.images[0], {}) for each in asked}
        cure = "fetch COCO's val2017, and name its folder: --set sugarcrepe.images=DIR"
        items = image_items(names, roots, self.folder / f"{KINDS[0]}.json", cure)
        return image_data(items, self.title), asked

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        right = chosen_rightly(scores[:, 0], torch.tensor([each.answer for each in asked]))
        kinds = torch.tensor([KINDS.index(each.kind) for each in asked])
        made = []
        for number in kinds.unique().tolist():
            own = kinds == number
            made.append(BenchScore.share("accuracy", right[own], units=units[own], guessing=0.5, part=KINDS[number]))
        for family in (*FAMILIES, ""):
            own = torch.tensor([KINDS[kind].startswith(family) for kind in kinds.tolist()])
            if own.any():
                how = {"units": units[own], "labels": kinds[own], "guessing": 0.5, "part": family}
                made.append(BenchScore.share("macro_accuracy", right[own], **how))
        return made

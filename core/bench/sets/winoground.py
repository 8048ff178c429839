"""Winoground: two images and two captions of the same words in another order."""

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
from ...metrics.compositional import TIES
from ...runtime.reading import parse_json, text_lines
from ..questions import PLACES, QuestionSet, entry_of, image_data, image_items, pair_scores

EXAMPLES = "examples.jsonl"
FIELDS = {"image_0": str, "image_1": str, "caption_0": str, "caption_1": str}
VERSION = "Winoground (facebook/winoground on the hub, data/)"
ENDINGS = ("png", "jpg", "jpeg", "webp")


@dataclass(eq=False, kw_only=True)
class Winoground(QuestionSet):
    """Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality (Thrush et al., 2022, arXiv
    2204.03162), from `examples.jsonl` and its images: "text", "image" and "group", of all examples and of each tag
    (Object, Relation, Both). A tie is wrong, as in the paper."""

    images: str | None = option(None, "folder of the images; by default images beside the file", metavar="DIR")
    ties: str = option(
        "wrong", "equal scores are wrong, or by position, as CLIP_benchmark has it: the first is chosen", choices=TIES
    )

    @classmethod
    def recognises(cls, place: Path) -> bool:
        file = place / EXAMPLES
        first = next(iter(text_lines(file)), "") if file.is_file() else ""
        return any(f'"{field}"' in first for field in FIELDS)

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        assert self.folder is not None
        file = self.folder / EXAMPLES
        roots = [Path(self.images)] if self.images else [self.folder / each for each in reversed(PLACES)]
        asked: list[Question] = []
        names: dict[str, tuple[str, dict[str, Any]]] = {}
        for number, line in enumerate(text_lines(file), 1):
            if not line.strip():
                continue
            place = f"{file} line {number}"
            entry = entry_of(parse_json(place, line), FIELDS, place, VERSION)
            images = (entry["image_0"], entry["image_1"])
            names |= {image: (_file_name(image, roots), {}) for image in images}
            asked.append(
                Question(images, (entry["caption_0"], entry["caption_1"]), 0, str(entry.get("collapsed_tag", "")))
            )
        if not asked:
            raise DataError(f"{file}: empty; give the file of {VERSION}")
        cure = f"unpack images.zip of {VERSION} beside it, or name their folder: --set winoground.images=DIR"
        return image_data(image_items(names, roots, file, cure), self.title), asked

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        made = pair_scores(scores, None, ties=self.ties)
        kinds = sorted({each.kind for each in asked} - {""})
        for kind in kinds if len(kinds) > 1 else ():
            own = torch.tensor([each.kind == kind for each in asked])
            made += pair_scores(scores[own], None, kind, self.ties)
        return made


def _file_name(image: str, roots: Sequence[Path]) -> str:
    """The hub's file names images without an ending."""
    if "." in Path(image).name:
        return image
    named = (f"{image}.{ending}" for ending in ENDINGS)
    return next((name for name in named if any((root / name).is_file() for root in roots)), f"{image}.{ENDINGS[0]}")

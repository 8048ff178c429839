"""Images with captions in several languages: XTD10, Crossmodal-3600, xFlickr&CO, Multi30k."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...contracts.bench import BenchScore, BenchTowers
from ...contracts.items import DomainData
from ...contracts.options import option
from ...data.pairs.multilingual import FOLDERS, multilingual_set
from ...errors import DataError, shortened
from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...runtime.reading import read_json, read_start
from ..languages import LanguageSet, names_in_note
from ..questions import image_data, image_items
from ..scoring import retrieval_scores

START = re.compile(r'\s*\{\s*"(images"\s*:\s*\[\s*"|captions"\s*:\s*\{)')
SHAPE = 'write {"images": [names], "captions": {language: [[captions of each image]]}}'
MEASURES = {
    f"{short}_r@{k}": f"{direction}/r{k}"
    for short, direction in (("t2i", TEXT_TO_IMAGE), ("i2t", IMAGE_TO_TEXT))
    for k in (1, 5, 10)
}
"""Name in a results file -> measure."""
SEEN = "The images of XTD10 are COCO train2014: a tower that was tuned on COCO has seen them."


@dataclass(eq=False, kw_only=True)
class CaptionsByLanguage(LanguageSet):
    """Retrieval in each language: R@1, R@5 and R@10 both ways; an image hits where any of its captions is among the
    first K.

    "Towards Zero-shot Cross-lingual Image Retrieval and Tagging" (XTD10; Aggarwal and Kale, 2020, arXiv 2012.05107),
    "Crossmodal-3600: A Massively Multilingual Multimodal Evaluation Dataset" (Thapliyal et al., 2022, arXiv 2205.12522)
    and "IGLUE" (xFlickr&CO; Bugliarello et al., 2022, arXiv 2201.11732), in the one JSON that Babel-ImageNet's
    evaluation has of each, or in their own layouts.

    XTD10's paper reports R@10 of images by text, the others R@1.
    """

    images: str | None = option(None, "folder of the images; by default those beside the file", metavar="DIR")

    data: DomainData | None = field(default=None, init=False, repr=False)
    captions: dict[str, list[list[str]]] = field(default_factory=dict, init=False, repr=False)
    name: str = field(default="", init=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return bool(_released(place)) or multilingual_set(place) is not None

    @property
    def title(self) -> str:
        return self.name or super().title

    @property
    def published_as(self) -> str:
        return self.name.lower().replace("xtd10", "xtd")

    @property
    def size(self) -> int:
        return 0 if self.data is None else len(self.data.items)

    def check(self, towers: BenchTowers) -> None:
        if self.data is not None:
            return
        assert self.folder is not None
        files = _released(self.folder)
        if len(files) > 1:
            raise DataError(f"{self.folder}: holds {', '.join(f.name for f in files)}; name one of them")
        if files:
            self.name, listed_in, base = files[0].stem, files[0], files[0].parent
            images, captions = _read_released(files[0])
        else:
            there = multilingual_set(self.folder)
            assert there is not None
            self.name, listed_in, base = there.kind.lower(), there.listed_in, there.base
            rows = [row for row in there.rows() if row.split in ("test", "")]
            codes = sorted({code for row in rows for code in row.captions})
            images = [row.image for row in rows]
            captions = {code: [list(row.captions.get(code, ())) for row in rows] for code in codes}
        captions = {self.usual(code): texts for code, texts in captions.items()}
        roots = [Path(self.images)] if self.images else [base / name if name else base for name in FOLDERS]
        cure = f"put them beside the file, or name their folder: --set {self.kind}.images=DIR"
        items = image_items({name: (name, {}) for name in images}, roots, listed_in, cure)
        if len(items) < len(images):
            raise DataError(f"{listed_in}: names an image twice; list each once")
        self.captions = {code: captions[code] for code in self.chosen(list(captions), self.usual)}
        without = {code: sum(not texts for texts in of) for code, of in self.captions.items()}
        if some := [f"{code} {count}" for code, count in without.items() if count]:
            self._notes.append(f"Images without a caption, left out of that language alone: {names_in_note(some)}.")
        if self.published_as == "xtd":
            self._notes.append(SEEN)
        self.data = image_data(items, self.title)

    def scores_of_languages(self, towers: BenchTowers) -> Mapping[str, list[tuple[BenchScore, Tensor]]]:
        assert self.data is not None
        images, rows = towers.images(self.data)
        scores = {}
        for code, captions in self.captions.items():
            gallery = [place for place, row in enumerate(rows) if captions[row]]
            texts = [text for place in gallery for text in captions[rows[place]]]
            counts = torch.tensor([len(captions[rows[place]]) for place in gallery])
            if not texts:
                continue
            image_of_text = torch.repeat_interleave(torch.arange(len(gallery)), counts)
            scored = retrieval_scores(images[gallery], towers.texts(texts), image_of_text, part=code)
            scores[code] = [(each, torch.tensor(gallery)[each.units]) for each in scored if each.units is not None]
        return scores

    def published_values(self, entry: Mapping[str, Any], language: str) -> Mapping[str, float]:
        if language not in self.captions:
            return {}
        return {measure: entry[name] for name, measure in MEASURES.items() if name in entry}


def _released(place: Path) -> list[Path]:
    """Files of the released form at a place."""
    if place.is_file():
        files = [place] if place.suffix.lower() == ".json" else []
    else:
        files = sorted(place.glob("*.json"))
    return [file for file in files if START.match(read_start(file, 4096).decode("utf-8", "replace"))]


def _read_released(file: Path) -> tuple[list[str], dict[str, list[list[str]]]]:
    content = read_json(file, SHAPE)
    images = content.get("images") if isinstance(content, dict) else None
    captions = content.get("captions") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images or not isinstance(captions, dict) or not captions:
        raise DataError(f"{file}: has no images or no captions; {SHAPE}")
    if not all(isinstance(name, str) and name for name in images):
        raise DataError(f"{file}: an image has no name; {SHAPE}")
    read = {}
    for code, of in captions.items():
        if not isinstance(of, list) or len(of) != len(images):
            raise DataError(f"{file}: '{shortened(code)}' has not one list of captions per image; {SHAPE}")
        for number, texts in enumerate(of):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DataError(f"{file}: captions of image {number + 1} in '{shortened(code)}' are no texts; {SHAPE}")
        read[code] = [[text.strip() for text in texts if text.strip()] for texts in of]
    return images, read

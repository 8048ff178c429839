"""ARO's relations and attributes: who does what to whom, and which thing has which attribute, in parts of pictures."""

from __future__ import annotations

from collections import Counter
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
from ...metrics.compositional import TIES, chosen_rightly
from ...runtime.reading import read_json
from ..questions import PLACES, QuestionSet, entry_of, image_data, image_items

RELATION, ATTRIBUTION = "relation", "attribution"
FILES = {RELATION: "visual_genome_relation.json", ATTRIBUTION: "visual_genome_attribution.json"}
LEAST = 25
"""Cases of a pair of attributes that count, as published."""
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
FIELDS: dict[str, Any] = {
    "image_path": str,
    "true_caption": str,
    "false_caption": str,
    **dict.fromkeys(BOX, (int, float)),
}
OF_KIND: dict[str, dict[str, Any]] = {RELATION: {"relation_name": str}, ATTRIBUTION: {"attributes": list}}
VERSION = "ARO (github.com/mertyg/vision-language-models-are-bows)"
EXCHANGEABLE = frozenset(
    """
adjusting, around, attached to, beside, between, bigger than, biting, boarding, brushing, by, chewing, cleaning,
climbing, close to, coming from, coming out of, contain, crossing, dragging, draped over, drinking, drinking from,
driving, driving down, driving on, eating from, eating in, enclosing, exiting, facing, filled with, floating in,
floating on, flying, flying above, flying in, flying over, flying through, full of, going down, going into, going
through, grazing in, growing in, growing on, guiding, hanging from, hanging in, hanging off, hanging over, higher
than, holding onto, hugging, in between, jumping off, jumping on, jumping over, kept in, larger than, leading,
leaning over, leaving, licking, longer than, looking in, looking into, looking out, looking over, looking through,
lying next to, lying on top of, making, mixed with, mounted on, moving, near, next to, of, on the back of, on the
edge of, on the front of, on the other side of, on the side of, opening, painted on, parked at, parked beside,
parked by, parked in, parked in front of, parked near, parked next to, perched on, petting, piled on, playing,
playing in, playing on, playing with, pouring, reaching for, reading, reflected on, riding on, running in, running
on, running through, seen through, sitting behind, sitting beside, sitting by, sitting in front of, sitting near,
sitting next to, sitting under, skiing down, skiing on, sleeping in, sleeping on, smiling at, sniffing, splashing,
sprinkled on, stacked on, standing against, standing around, standing behind, standing beside, standing in front of,
standing near, standing next to, staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with,
touching, traveling down, traveling on, tying, typing on, underneath, wading in, waiting for, walking across,
walking by, walking down, walking next to, walking through, with, working in, working on, worn on, wrapped around,
wrapped in
""".replace("\n", " ")
    .strip()
    .split(", ")
)
"""Relations that the released evaluation leaves out of its mean: it calls them symmetric."""
ASYMMETRIC = "asymmetric relation"


@dataclass(eq=False, kw_only=True)
class Aro(QuestionSet):
    """When and Why Vision-Language Models Behave like Bags-of-Words, and What to Do About It? (Yuksekgonul et al.,
    2022, arXiv 2210.01936), on Visual Genome: a part of a picture, its caption, and the caption with the two things, or
    their attributes, exchanged. "macro_accuracy" is the mean over relations, and over the pairs of attributes that have
    25 cases or more. The released evaluation of relations leaves out those that it calls symmetric ("near", "next to"):
    its number is the row "asymmetric relation"."""

    images: str | None = option(None, "folder of the images; by default images beside the files", metavar="DIR")
    ties: str = option(
        "wrong", "equal scores are wrong, or by position: the first, which is the false caption", choices=TIES
    )
    each: bool = option(False, "also one row for each relation and each pair of attributes")

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return any((place / file).is_file() for file in FILES.values())

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        assert self.folder is not None
        asked: list[Question] = []
        names: dict[str, tuple[str, dict[str, Any]]] = {}
        present = {kind: self.folder / name for kind, name in FILES.items() if (self.folder / name).is_file()}
        for kind, file in present.items():
            entries = read_json(file)
            if not isinstance(entries, list) or not entries:
                raise DataError(f"{file}: has no list of cases; give the file of {VERSION}")
            for number, each in enumerate(entries):
                entry = entry_of(each, {**FIELDS, **OF_KIND[kind]}, f"{file} entry {number}", VERSION)
                x, y, width, height = (entry[name] for name in BOX)
                key = f"{entry['image_path']}#{x},{y},{width},{height}"
                names[key] = (entry["image_path"], {"box": [x, y, x + width, y + height]})
                texts = (entry["false_caption"], entry["true_caption"])
                asked.append(Question((key,), texts, 1, f"{kind}/{_name(entry, kind)}"))
        counts = Counter(each.kind for each in asked)
        few = {kind for kind, count in counts.items() if kind.startswith(ATTRIBUTION) and count < LEAST}
        asked = [each for each in asked if each.kind not in few]
        if not asked:
            raise DataError(f"{present[ATTRIBUTION]}: no pair of attributes has {LEAST} cases; give the whole file")
        used = {each.images[0] for each in asked}
        roots = [Path(self.images)] if self.images else [self.folder / each for each in reversed(PLACES)]
        cure = f"unpack vgr_vga_images.zip of {VERSION}, and name its folder: --set aro.images=DIR"
        items = image_items(
            {key: name for key, name in names.items() if key in used}, roots, next(iter(present.values())), cure
        )
        return image_data(items, self.title), asked

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        right = chosen_rightly(scores[:, 0], torch.tensor([each.answer for each in asked]), self.ties)
        names = sorted({each.kind for each in asked})
        kinds = torch.tensor([names.index(each.kind) for each in asked])
        made = []
        for part in (RELATION, ATTRIBUTION):
            own = torch.tensor([each.kind.startswith(part) for each in asked])
            if own.any():
                how = {"units": units[own], "guessing": 0.5, "part": part}
                made.append(BenchScore.share("macro_accuracy", right[own], labels=kinds[own], **how))
                made.append(BenchScore.share("accuracy", right[own], **how))
        directed = torch.tensor([_is_directed(each.kind) for each in asked])
        if directed.any() and any(kind.startswith(RELATION) and not _is_directed(kind) for kind in names):
            how = {"units": units[directed], "labels": kinds[directed], "guessing": 0.5, "part": ASYMMETRIC}
            made.insert(2, BenchScore.share("macro_accuracy", right[directed], **how))
        for number, name in enumerate(names if self.each else ()):
            own = kinds == number
            made.append(BenchScore.share("accuracy", right[own], units=units[own], guessing=0.5, part=name))
        return made


def _name(entry: dict[str, Any], kind: str) -> str:
    return entry["relation_name"] if kind == RELATION else "_".join(map(str, entry["attributes"]))


def _is_directed(kind: str) -> bool:
    part, _, relation = kind.partition("/")
    return part == RELATION and relation not in EXCHANGEABLE

"""Drawn scenes of two things, told from the scene in which they have exchanged a colour, number, side, size or part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...contracts.bench import BenchScore, BenchTowers
from ...contracts.items import Decoded, DomainData, Item, Question
from ...contracts.options import option
from ...data.pairs.compositions import (
    COLOUR,
    KINDS,
    LARGE,
    MEDIUM,
    SIZE,
    Arrangement,
    EqualThings,
    draw_composition,
    drawn_compositions,
)
from ...metrics.compositional import chosen_rightly
from ..questions import QuestionSet, pair_scores

TURNED = "named in turn"
"""Part of the captions that name the second thing first."""
NOTE = "drawn scenes of two things: they show what a model binds, not how good it is on photographs"


@dataclass(eq=False, kw_only=True)
class CompositionScenes(QuestionSet):
    """Pairs of drawn images whose captions have the same words, scored as Winoground is (Thrush et al., 2022, arXiv
    2204.03162), per kind, over all, and over all by captions that name the other thing first. Needs no files:
    `--data sample:composition`.

    Two shares are those of "CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation" (2025,
    arXiv 2502.19842): "first_named" of the captions of two things lie nearer to the text of the thing that they name
    first, and "larger" of the images to that of the larger thing. A half is without a lean."""

    drawn = True

    questions: int = option(50, "pairs of images of each kind", low=2, high=200)

    scenes: Mapping[str, Arrangement] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return False

    @property
    def title(self) -> str:
        return "composition"

    @property
    def notes(self) -> list[str]:
        return [f"{self.title}: {NOTE}."]

    def read(self, seed: int) -> tuple[DomainData, list[Question]]:
        pairs = {
            f"{kind}/{number}": (each, each.partner)
            for kind in KINDS
            for number, each in enumerate(drawn_compositions(kind, self.questions, seed))
        }
        self.scenes = {f"{key}/{side}": each for key, pair in pairs.items() for side, each in enumerate(pair)}
        items, asked = [], []
        for number, (key, pair) in enumerate(pairs.items()):
            ids = tuple(f"{key}/{side}" for side in range(len(pair)))
            for name, each in zip(ids, pair):
                digest = hashlib.sha256(f"{each} {seed} {number}".encode()).hexdigest()
                decode = {"scene": name, "seed": [seed, number], "digest": digest}
                items.append(Item(name, Path(__file__), decode, group=key, split="test"))
            kind = pair[0].kind
            asked.append(Question(ids, tuple(each.caption for each in pair), 0, kind))
            asked.append(Question(ids, tuple(each.turned_caption for each in pair), 0, TURNED))
        return DomainData.drawn(self.title, NOTE, items, self._load, kind="captions"), asked

    def _load(self, item: Item) -> Decoded:
        return draw_composition(self.scenes[item.decode["scene"]], item.decode["seed"])

    def scores_of(self, asked: Sequence[Question], scores: Tensor, units: Tensor) -> list[BenchScore]:
        kinds = [each.kind for each in asked]
        turned = torch.tensor([kind == TURNED for kind in kinds])
        made = []
        for kind in KINDS:
            own = torch.tensor([each == kind for each in kinds])
            made += pair_scores(scores[own], None, kind)
        return [*made, *pair_scores(scores[~turned], None), *pair_scores(scores[turned], None, TURNED)]

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        return [*super().score(towers), self._first_named(towers), self._larger(towers)]

    def _first_named(self, towers: BenchTowers) -> BenchScore:
        """Of captions of two things the nearer one; each thing is named first in one of two captions."""
        shown = [each for each in self.scenes.values() if each.kind == COLOUR]
        captions = towers.texts([text for each in shown for text in (each.caption, each.turned_caption)])  # (N, D)
        parts = [order for each in shown for order in (each.parts, each.parts[::-1])]
        return self._nearer("first_named", captions, parts, towers, 4)

    def _larger(self, towers: BenchTowers) -> BenchScore:
        """Of images of a large and a small thing the nearer one."""
        assert self.data is not None
        images, rows = towers.images(self.data)
        large_first = {
            name: sorted(each.parts, key=lambda part: part.size != LARGE)
            for name, each in self.scenes.items()
            if each.kind == SIZE
        }
        places = [place for place, row in enumerate(rows) if self.data.items[row].id in large_first]
        parts = [large_first[self.data.items[rows[place]].id] for place in places]
        return self._nearer("larger", images[places], parts, towers, 2)

    @staticmethod
    def _nearer(
        measure: str, vectors: Tensor, parts: Sequence[Sequence[EqualThings]], towers: BenchTowers, together: int
    ) -> BenchScore:
        """How often the first of two parts is nearer; so many neighbours are of one pair of scenes."""
        words = [replace(part, size=MEDIUM).words for pair in parts for part in pair]
        of_parts = towers.texts(words).view(len(parts), 2, -1)  # (N, 2, D)
        first = torch.zeros(len(parts), dtype=torch.int64)
        right = chosen_rightly(torch.einsum("nd,npd->np", vectors, of_parts), first)
        return BenchScore.share(measure, right, units=torch.arange(len(parts)) // together, guessing=0.5)

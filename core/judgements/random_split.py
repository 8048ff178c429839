"""What a random split would have scored, where the data are split by place.

Neighbours look alike, so that a random split tests on what was all but seen: the difference is how far such a score
deceives ("Spatial validation reveals poor predictive performance of large-scale ecological mapping models", 2020, doi
10.1038/s41467-020-18321-y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..contracts.items import DomainData
from ..contracts.judgement import FIT, JudgedClassifier, Judgement, Place
from ..contracts.run_info import Record, beside
from ..data.file_hashes import FileHashes
from ..data.splits import assign_splits
from ..registry import build_adapter
from ..runs.sections import MEASURES, Cell, TableSection, deciding_of, points

if TYPE_CHECKING:
    from typing_extensions import Self

NOTE = (
    "The same method, learning from as many images per class. Neighbouring places look alike, so a random split "
    "tests on places much like those of the training: it shows how well gaps in the map are filled, not how well "
    "the model does elsewhere."
)


@dataclass(frozen=True, eq=False)
class AtRandom(Record):
    """The same method on a random split.

    Attributes:
        blocks: how the data are split by place, in words.
        scores: at random; empty where the method was not fitted again.
        test_images: of the random split.
        deciding: the metric that decides.
        by_place, tested_by_place: its value by place, and the number of test images there.
    """

    key: ClassVar[str] = "random_split"
    blocks: str
    scores: Mapping[str, float] = field(default_factory=dict)
    test_images: int = 0
    deciding: str = beside("accuracy")
    by_place: float = beside(0.0)
    tested_by_place: int = beside(0)

    def values_by_key(self) -> dict[str, Any]:
        return {**self.scores, "test_images": self.test_images, "blocks": self.blocks}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() if self.scores else {}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        deciding, scores = deciding_of(metrics), dict(metrics[cls.key])
        facts = (scores.pop("blocks"), scores, scores.pop("test_images"))
        return cls(*facts, deciding, metrics["adapted"][deciding], metrics["test_images"])

    def section(self) -> TableSection | None:
        """The score by place and that at random."""
        if not self.scores:
            return None
        measure, at_random = MEASURES[self.deciding], self.scores[self.deciding]
        rows = [
            (f"By place: {self.blocks}, each on one side", self.tested_by_place, Cell(measure.text(self.by_place))),
            ("At random: neighbours on both sides", self.test_images, Cell(measure.text(at_random))),
            ("Difference", None, Cell(points(measure, at_random - self.by_place))),
        ]
        header = ("Split", "Test images", measure.name)
        return TableSection("Split by place, and at random", header, rows, NOTE, sub=True)

    def note(self) -> str:
        if not self.scores:
            return f"splits are by place, {self.blocks}; not compared with a random split, which would train twice"
        measure, at_random = MEASURES[self.deciding], self.scores[self.deciding]
        gap = at_random - self.by_place
        why = ": the difference is what similar neighbours reveal" if gap > 0 else ", no better here"
        return (
            f"split by place ({self.blocks}): {measure.name.lower()} {measure.text(self.by_place)}; a random split of "
            f"the same images gives {measure.text(at_random)} ({points(measure, gap)}){why}"
        )


@dataclass(eq=False, kw_only=True)
class RandomSplit(Judgement):
    """The same method, with the settings that it chose, fitted on as many images of a random split."""

    record: ClassVar = AtRandom
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"blocks"})
    place: ClassVar = Place.SCORES
    refits: ClassVar = True

    def compute(self, fit: JudgedClassifier) -> AtRandom | None:
        data = fit.prepared.data
        if "accuracy" not in fit.scores.adapted:
            return None
        if "pixels" in type(fit.adapter).needs:  # it would train twice
            return AtRandom(data.blocks)
        fit.reporter.info("Fitting once more on a random split, for comparison")
        loose = fit.prepared.again(_split_at_random(data, fit.split_seed))
        drawn = loose.draw(seed=fit.seed, **fit.drawn)
        again = build_adapter(fit.adapter.name, **{**fit.adapter.options, **fit.adapter.settled(fit.report)})
        fit.fit_again(again, loose, drawn)
        scores, deciding = fit.score_again(again, loose, drawn.test).adapted, deciding_of(fit.metrics)
        of_place = (deciding, fit.scores.adapted[deciding], len(fit.test))
        return AtRandom(data.blocks, scores, len(drawn.test), *of_place)


def _split_at_random(data: DomainData, seed: int) -> DomainData:
    items = [item.with_(split="", group=None, apart=True) for item in data.items]
    loose = replace(data, items=items, notes=[], blocks="", thumbnails=None)  # neighbours may be near copies
    return assign_splits(loose, seed=seed, hashes=FileHashes())

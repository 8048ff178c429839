"""Grounding: the place that a text is about, in an image or in time. What such tasks share, of any domain: towers are
scored as they are, or trained on pairs first, beside guessing."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ...contracts.backbone import Backbone
from ...contracts.recipe import Recipe
from ...runs.sections import TableSection, VerdictSection
from ...runtime.progress import Reporter
from ..retrieval.fitting import RetrievalData
from ..retrieval.task import Retrieval
from ..tower_training.comparison import ExchangeComparison
from ..tower_training.fitted import FittedTowers


@dataclass(frozen=True, eq=False)
class GroundingComparison(ExchangeComparison):
    """Scores beside those of guessing; the verdict is whether the deciding one is better than before, or than guessing.

    Class attributes:
        reached: a sentence without its end, with {} for the deciding score and its interval.

    Attributes:
        guessing: metric -> score of guessing.
    """

    reached: ClassVar[str]

    guessing: Mapping[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """Side -> name of its column."""
        if not self.zero_shot:
            return {"guessing": "guessing", "adapted": "model"}
        return {"guessing": "guessing", "zero_shot": "before", "adapted": "after"}

    @property
    def against_guessing(self) -> str:
        """Whether the deciding score is better than guessing, in a sentence; "" where it has no interval."""
        bounds, guessed = self.interval("adapted", self.deciding), self.guessing[self.deciding]
        if bounds is None:
            return ""
        score = f"{self.adapted[self.deciding]:.1%} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
        below = "worse than" if bounds[1] < guessed else "not distinguishable from"
        judged = "better than" if bounds[0] > guessed else below
        return f"{self.reached.format(score)}: {judged} guessing, {guessed:.1%}."

    @property
    def sentence(self) -> str:
        return "\n".join(filter(None, (self.against_guessing, super().sentence)))

    def section(self) -> VerdictSection | None:
        if self.exchange:
            return super().section()
        bounds = self.interval("adapted", self.deciding)
        better = bounds is not None and bounds[0] > self.guessing[self.deciding]
        title = "Better than guessing" if better else "Not shown to be better than guessing"
        return VerdictSection("good" if better else "open", title, self.sentence)

    def score_section(self, title: str, note: str) -> TableSection:
        """All scores with their intervals, a column per side."""
        rows = [
            [measure.title(), *(measure.cell(self[side].get(key), self.interval(side, key)) for side in self.columns)]
            for key, measure in self.measures.items()
        ]
        return TableSection(title, ("Score", *(name.capitalize() for name in self.columns.values())), rows, note)


class Grounding(Retrieval):
    """Base of tasks that look for the place of a text.

    `zero-shot`, the default, looks with the towers as they are; a method that learns from pairs trains them first, as
    retrieval does, and is scored before and after.
    """

    takes: ClassVar = Retrieval.takes - {"sources", "features"}
    judgements: ClassVar = ()
    places: ClassVar[frozenset] = frozenset()
    needs_domain: ClassVar = True
    on_parts: ClassVar = False
    default_adapter: ClassVar = "zero-shot"
    row_files: ClassVar = (".csv", ".jsonl")
    flat: ClassVar[Callable[[Any, Any], dict[str, Any]]]
    """(scores before or None, scores after) -> both in the shape of metrics.json."""

    @abstractmethod
    def divided(self, recipe: Recipe, whole: bool) -> RetrievalData:
        """The data in their splits.

        Args:
            whole: whether all of them are for testing.
        """

    @abstractmethod
    def scored(
        self,
        backbone: Backbone,
        data: Any,
        split: str,
        recipe: Recipe,
        reporter: Reporter | None = None,
        trained: bool = False,
    ) -> Any:
        """How well towers find the texts of a split.

        Args:
            trained: whether a fit made them, whose features are not stored.
        """

    def check_towers(self, backbone: Backbone) -> None:
        """Raise the CapabilityError of towers that cannot look."""

    def prepared(self, recipe: Recipe) -> Recipe:
        self.training(recipe)  # what is wrong with its options is found out before anything is read
        return recipe

    def read(self, recipe: Recipe) -> RetrievalData:
        return self.divided(recipe, whole=not self.trains(recipe))

    def read_compared(self, recipe: Recipe, names: Any) -> RetrievalData:
        return self.divided(recipe, whole=names == [self.default_adapter])

    def fitted(self, recipe: Recipe, data: Any, reporter: Reporter, folder: Path) -> FittedTowers:
        started, backbone = time.monotonic(), self.announced_backbone(recipe, reporter)
        self.check_towers(backbone)
        trains = self.trains(recipe)
        before = self.scored(backbone, data, "test", recipe, reporter) if trains else None
        adapter, report, towers = self.train(recipe, data, backbone, reporter, folder)
        after = self.scored(towers, data, "test", recipe, reporter, trained=trains)
        scores, notes = (before, after, self.metrics(before, after, data)), [*data.notes, *report.notes]
        return FittedTowers(adapter, report, backbone, towers, *scores, notes, time.monotonic() - started)

    def compared(self, towers: Backbone, data: Any, recipe: Recipe) -> dict[str, Any]:
        return self.scored(towers, data, "test", recipe, trained=self.trains(recipe)).metrics()

    def scores(self, data: Any, split: str, recipe: Recipe, reporter: Reporter, *towers: Backbone) -> tuple:
        backbone, after = towers
        trained = after is not backbone
        before = self.scored(backbone, data, split, recipe, reporter) if trained else None
        return before, self.scored(after, data, split, recipe, reporter, trained=trained)

    def metrics(self, before: Any, after: Any, data: Any) -> dict[str, Any]:
        return type(self).flat(before, after)

    def keyed(self, data: Any) -> Any:
        return data.pairs

    def table(self, metrics: Mapping[str, Any]):
        return self.comparison.from_json(metrics).table()

    def write_rows(self, predicted: Any, path: Path) -> None:
        predicted.write(path)

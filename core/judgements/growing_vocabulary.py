"""`eval --vocabulary-steps`: how a run and zero-shot stand a vocabulary that grows to all classes of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..contracts.adapter import Adapter
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place
from ..contracts.options import option
from ..contracts.run_info import Record
from ..errors import CapabilityError, ConfigError
from ..metrics.vocabulary_growth import VocabularyGrowth, divided_classes, growing_orders, vocabulary_growth
from ..runs.sections import Measure, TableSection

if TYPE_CHECKING:
    from typing_extensions import Self

TRIALS = 3
"""Orders of the other classes for each target, as published."""
SIDES = {"zero_shot": "zero-shot", "adapted": "adapted"}
SHARE = Measure("")
WORDS = (
    "The classes are divided into groups at random. Each group is once the whole vocabulary, to which the other groups "
    "are then added, in up to three orders. Extensibility is the accuracy on all images of the classes so far, "
    "stability that on images of the first group; their means are over the vocabularies. The scores of the run are "
    "compared among the classes of a vocabulary; nothing is fitted again."
)


@dataclass(frozen=True, eq=False)
class Growth(Record):
    """What a growing vocabulary costs.

    Attributes:
        steps: in which it grows.
        trials: orders of the other classes for each target.
        classes_by_step: how many classes each vocabulary has, a mean.
        zero_shot, adapted: of each side; None where zero-shot means nothing.
    """

    key: ClassVar[str] = "vocabulary"
    steps: int
    trials: int
    classes_by_step: tuple[float, ...]
    zero_shot: VocabularyGrowth | None
    adapted: VocabularyGrowth

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        values = metrics[cls.key]
        sides = {side: values[side] and VocabularyGrowth(**values[side]) for side in SIDES}
        return cls(values["steps"], values["trials"], tuple(values["classes_by_step"]), **sides)

    def section(self) -> TableSection:
        header, rows = self._cells()
        return TableSection(self._title, header, rows, note=WORDS)

    def table(self) -> Table:
        header, rows = self._cells()
        table = Table(title=self._title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for name in header:
            table.add_column(name, justify="left" if name == header[0] else "right")
        for row in rows:
            table.add_row(*row)
        return table

    @property
    def _title(self) -> str:
        return f"A vocabulary that grows in {self.steps} steps"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """A row per number of classes and one of the means; extensibility and stability of each side."""
        sides = {words: of for side, words in SIDES.items() if (of := getattr(self, side)) is not None}
        header = ["classes", *(f"{words}, {score}" for words in sides for score in ("extensibility", "stability"))]
        rows = []
        for step, size in enumerate(self.classes_by_step):
            row = [f"{size:g}"]
            for of in sides.values():
                stability = None if step == 0 else of.stability_by_step[step - 1]
                row += [SHARE.text(of.extensibility_by_step[step]), SHARE.text(stability)]
            rows.append(row)
        means = [SHARE.text(mean) for of in sides.values() for mean in (of.extensibility, of.stability)]
        return header, [*rows, ["mean", *means]]


@dataclass(eq=False, kw_only=True)
class GrowingVocabulary(Judgement):
    """Extensibility and stability of a run and of zero-shot, where they are asked for."""

    record: ClassVar = Growth
    at: ClassVar = frozenset({EVAL})
    asked_by: ClassVar = ("vocabulary_steps",)
    place: ClassVar = Place.DETAILS
    vocabulary_steps: int | None = option(
        None, "also score a vocabulary that grows to all classes in N steps: extensibility and stability"
    )

    def check(self, adapter: Adapter, class_names: Sequence[str]) -> None:
        """Refuse steps that no images of these classes can be scored in."""
        steps, classes = self.vocabulary_steps, len(class_names)
        if steps is None:
            return
        if adapter.multilabel_:
            raise CapabilityError(
                f"--vocabulary-steps {steps}: only for one label per image, and these have several; omit it"
            )
        if not 2 <= steps <= classes:
            raise ConfigError(f"--vocabulary-steps {steps}: give 2 to {classes}, the number of classes")

    def compute(self, fit: JudgedClassifier) -> Growth:
        """Both sides, as "Delving into the Openness of CLIP" scores them; see `core/metrics/vocabulary_growth.py`.

        Raises:
            CapabilityError: there are no labels. ConfigError: too few classes have images.
        """
        steps, labels, classes = self.vocabulary_steps, fit.labels, len(fit.class_names)
        if labels is None:
            raise CapabilityError(f"--vocabulary-steps {steps}: these images have no labels; omit it")
        if (shown := len(labels.unique())) < steps:
            raise ConfigError(
                f"--vocabulary-steps {steps}: only {shown} of {classes} classes have images here; give at most {shown}"
            )
        group = divided_classes(labels, classes, steps, fit.seed)
        orders = growing_orders(steps, TRIALS, fit.seed)
        sizes = torch.bincount(group, minlength=steps).double()[torch.tensor(orders)].cumsum(dim=1).mean(dim=0)
        sides = (fit.scores.zero_shot_logits, fit.scores.adapted_logits)
        grown = (None if logits is None else vocabulary_growth(logits, labels, group, orders) for logits in sides)
        return Growth(steps, TRIALS, tuple(round(size, 2) for size in sizes.tolist()), *grown)

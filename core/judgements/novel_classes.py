"""`--novel`: a method that can name classes it never saw, on those that the fit left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..contracts.judgement import FIT, JudgedClassifier, Judgement, Place
from ..contracts.run_info import Record
from ..runs.sections import TableSection

if TYPE_CHECKING:
    from typing_extensions import Self

SIDES = {"zero_shot": "Zero-shot", "adapted": "Adapted"}


@dataclass(frozen=True, eq=False)
class NovelScores(Record):
    """Scores on the classes left out, which have all keys of metrics.json.

    Attributes:
        metrics: as of the test images; on both sides also "harmonic_mean", with the accuracy on the trained classes.
    """

    key: ClassVar[str] = "novel"
    metrics: Mapping[str, Any]

    def values_by_key(self) -> dict[str, Any]:
        return dict(self.metrics)

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Self:
        return cls(metrics[cls.key])

    def section(self) -> TableSection | None:
        sides = [(name, self.metrics.get(key)) for key, name in SIDES.items()]
        rows = [(name, scores["accuracy"], scores["harmonic_mean"]) for name, scores in sides if scores]
        header = ("Model", "Accuracy on them", "Harmonic mean with the trained classes")
        return TableSection("Classes it was not trained on", header, rows, sub=True) if rows else None


@dataclass(eq=False, kw_only=True)
class NovelClasses(Judgement):
    """Base-to-new, as prompt learning reports it: both accuracies and their harmonic mean."""

    record: ClassVar = NovelScores
    at: ClassVar = frozenset({FIT})
    needs: ClassVar = frozenset({"novel"})
    place: ClassVar = Place.ABILITIES

    def compute(self, fit: JudgedClassifier) -> NovelScores:
        unseen = fit.novel()
        moved = fit.adapter.for_classes(fit.prepared.backbone, unseen.class_names, classifier=unseen.classifier)
        metrics = fit.score_again(moved, unseen, unseen.test, beside=True).metrics
        for side in SIDES:
            base, new = fit.metrics[side]["accuracy"], metrics[side]["accuracy"]
            metrics[side]["harmonic_mean"] = harmonic_mean(base, new)
        return NovelScores(metrics)


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), how base-to-new results are summed up."""
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)

"""`eval --coverage --max-error`: what sets of classes hold on other images, and which answers are left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..confidence.calibration import uncalibrated_words
from ..confidence.conformal import held_by_class, least_words, words_of, words_of_labels
from ..confidence.selective import Selective
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place, Record, beside


@dataclass(frozen=True, eq=False)
class Trusted(Record):
    """What was asked for, on the images that were scored.

    Attributes:
        conformal: coverage and size of sets, as `Conformal.scores` or `LabelSets.scores` says; None: not asked for.
        selective: what is left open; None: not asked for.
        notes: sentences for the user.
    """

    beside_scores: ClassVar = ("conformal", "selective")
    conformal: Mapping[str, Any] | None = None
    selective: Selective | None = None
    notes: Sequence[str] = beside(())  # type: ignore[assignment]  # a field in place of a property

    def values_by_key(self) -> dict[str, Any]:
        return {key: value for key, value in super().values_by_key().items() if value is not None}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Trusted:
        sets, left = metrics.get("conformal"), metrics.get("selective")
        return cls(sets, left and Selective(**left))


@dataclass(eq=False, kw_only=True)
class Coverage(Judgement):
    """Sets with a coverage, and answers with a bounded error, by the calibration of the run."""

    record: ClassVar = Trusted
    at: ClassVar = frozenset({EVAL})
    needs: ClassVar = frozenset({"labelled", "own_classes"})
    place: ClassVar = Place.TRUST

    def compute(self, fit: JudgedClassifier) -> Trusted | None:
        """By `coverage`, `set_method` and `max_error` of the use; None where neither sets nor an error is wanted."""
        use, calibration = fit.use, fit.calibration
        if use is None or (use.coverage is None and use.max_error is None):
            return None
        if calibration is None:
            why = uncalibrated_words(use.run.info)
            return Trusted(notes=(f"{why}, so nothing can be promised about sets or errors; fit again",))
        labels, groups, notes = fit.labels, fit.scores.groups, []
        probs, sets, left = calibration.probabilities(fit.scores.adapted_logits), None, None
        if use.coverage is not None:
            conformal = calibration.conformal(use.coverage, use.set_method, use.coverage_per == "class")
            sets = conformal.scores(probs, labels, groups)
            sets["by_class"] = held_by_class(conformal.sets(probs), labels, calibration.class_names, groups)
            notes.append((words_of_labels if calibration.multilabel else words_of)(sets))
            notes += [note for note in (least_words(sets["by_class"]), conformal.note) if note]
        if use.max_error is not None:
            left = calibration.selective(probs, labels, use.max_error, groups)
            why = calibration.abstention_notes(use.max_error)
            all_open = left.open == 1 and not calibration.multilabel
            notes += why if why and all_open else [left.words, *why]
        return Trusted(sets, left, notes)

"""`eval --coverage --max-error`: what sets of classes hold on other images, and which answers are left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..confidence.calibration import uncalibrated_words
from ..confidence.conformal import words_of, words_of_labels
from ..confidence.selective import Selective
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place, Record, beside
from ..contracts.options import option


@dataclass(frozen=True, eq=False)
class Trusted(Record):
    """What was asked for, on the images that were scored.

    Attributes:
        conformal: coverage and size of sets, as `Conformal.scores` or `LabelSets.scores` says; None: not asked for.
        selective: what is left open; None: not asked for.
        said: sentences for the user.
    """

    beside_scores: ClassVar = ("conformal", "selective")
    conformal: Mapping[str, Any] | None = None
    selective: Selective | None = None
    said: tuple[str, ...] = beside(())

    def values_by_key(self) -> dict[str, Any]:
        return {key: value for key, value in super().values_by_key().items() if value is not None}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Trusted:
        sets, left = metrics.get("conformal"), metrics.get("selective")
        return cls(sets, left and Selective(**left))

    @property
    def notes(self) -> list[str]:
        return list(self.said)


@dataclass(eq=False, kw_only=True)
class Coverage(Judgement):
    """Sets with a coverage, and answers with a bounded error, by the calibration of the run."""

    record: ClassVar = Trusted
    at: ClassVar = frozenset({EVAL})
    needs: ClassVar = frozenset({"labelled", "own_classes"})
    asked_by: ClassVar = ("coverage", "max_error")
    place: ClassVar = Place.TRUST

    coverage: float | None = option(None, "share of images whose set of classes is to hold the right one")
    set_method: str | None = option(None, "how sets are made: lac, aps or raps")
    max_error: float | None = option(None, "share of the answers given that may be wrong; the others are left open")

    def compute(self, fit: JudgedClassifier) -> Trusted:
        if (calibration := fit.calibration) is None:
            why = uncalibrated_words(fit.run_info)
            return Trusted(said=(f"{why}, so nothing can be promised about sets or errors; fit again",))
        logits, labels, groups = fit.scores.adapted_logits, fit.labels, fit.scores.groups
        probs, sets, left, said = calibration.probabilities(logits), None, None, []
        if self.coverage is not None:
            conformal = calibration.conformal(self.coverage, self.set_method)
            sets = conformal.scores(probs, labels, groups)
            said.append((words_of_labels if calibration.multilabel else words_of)(sets))
            said += [conformal.note] if conformal.note else []
        if self.max_error is not None:
            left = calibration.selective(probs, labels, self.max_error, groups)
            why = calibration.abstention_notes(self.max_error)
            all_open = left.open == 1 and not calibration.multilabel
            said += why if why and all_open else [left.words, *why]
        return Trusted(sets, left, tuple(said))

"""`--coverage --max-error`: sets of classes that hold the right one, and answers left open.

`predict` names them of each image, `eval` says what they come to on labelled ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..confidence.calibration import uncalibrated_words
from ..confidence.conformal import check_coverage, coverage_sentence, held_by_class, least_words, words_of_labels
from ..confidence.selective import Selective, check_max_error
from ..contracts.adapter import Adapter
from ..contracts.judgement import EVAL, PREDICT, JudgedClassifier, JudgedPredictions, Judgement, Place
from ..contracts.options import option
from ..contracts.run_info import Record, beside
from ..errors import ConfigError


@dataclass(frozen=True, eq=False)
class _Asked(Record):
    """Of sets and of an error, whichever is asked for.

    Attributes:
        notes: sentences for the user.
    """

    notes: Sequence[str] = beside(())  # type: ignore[assignment]  # a field in place of a property

    def values_by_key(self) -> dict[str, Any]:
        return {key: value for key, value in super().values_by_key().items() if value is not None}


@dataclass(frozen=True, eq=False)
class Trusted(_Asked):
    """What was asked for, on the images that were scored.

    Attributes:
        conformal: coverage and size of sets, as `Conformal.scores` or `LabelSets.scores` says; None: not asked for.
        selective: what is left open; None: not asked for.
    """

    beside_scores: ClassVar = ("conformal", "selective")
    conformal: Mapping[str, Any] | None = None
    selective: Selective | None = None

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Trusted:
        sets, left = metrics.get("conformal"), metrics.get("selective")
        return cls(conformal=sets, selective=left and Selective(**left))


@dataclass(frozen=True, eq=False)
class CoveredAnswers(_Asked):
    """Of each image.

    Attributes:
        open: whether its answer is left open, or names of labels that are; None: no error is asked for.
        set: names of the classes or labels of its set; None: no coverage is asked for.
    """

    open: Sequence[bool] | Sequence[Sequence[str]] | None = None
    set: Sequence[Sequence[str]] | None = None


@dataclass(eq=False, kw_only=True)
class Coverage(Judgement):
    """Sets with a coverage, and answers with a bounded error, by the calibration of the run."""

    record: ClassVar = Trusted
    judges: ClassVar = (JudgedClassifier, JudgedPredictions)
    at: ClassVar = frozenset({EVAL, PREDICT})
    asked_by: ClassVar = ("coverage", "max_error")
    columns: ClassVar = {"set": "set", "open": "left open"}
    place: ClassVar = Place.TRUST
    coverage: float | None = option(
        None,
        "name for each image a set of classes that holds the right one in this share of cases, for instance 0.9; with "
        "several labels per image, a set that holds this share of its true labels on average",
        metavar="SHARE",
    )
    max_error: float | None = option(
        None,
        "leave unsure answers open, so that at most this share of the others is wrong, for instance 0.05",
        metavar="SHARE",
    )
    set_method: str | None = option(
        None, "how sets of classes are made; by default lac, the smallest ones", metavar="lac|aps|raps"
    )
    coverage_per: str = option(
        "all",
        "class: hold each class in that share of its own images, rare ones too, which takes more calibration rows and "
        "larger sets; all (the default): hold that share of all images together",
        choices=("all", "class"),
        metavar="all|class",
    )

    def check(self, adapter: Adapter, class_names: Sequence[str]) -> None:
        """Refuse a value out of range, or one for the other kind of labels."""
        if self.coverage is not None:
            check_coverage(self.coverage, self.set_method or "lac")
            if adapter.multilabel_ and self.set_method is not None:
                raise ConfigError(
                    f"--set-method {self.set_method}: only for one label per image, and images of this run may have "
                    "several; omit it"
                )
            if adapter.multilabel_ and self._per_class:
                raise ConfigError(
                    "--coverage-per class: only for one label per image, and images of this run may have several; omit "
                    "it"
                )
        elif self.set_method is not None:
            raise ConfigError(
                f"--set-method {self.set_method}: says how sets are made; give --coverage too, for instance 0.9"
            )
        elif self._per_class:
            raise ConfigError("--coverage-per class: says what sets hold; give --coverage too, for instance 0.9")
        if self.max_error is not None:
            check_max_error(self.max_error)

    @property
    def _per_class(self) -> bool:
        return self.coverage_per == "class"

    def compute(self, judged: JudgedClassifier | JudgedPredictions) -> Trusted | CoveredAnswers | None:
        if isinstance(judged, JudgedPredictions):
            return self._answers(judged)
        return self._trusted(judged) if judged.labelled and judged.own_classes else None

    def _answers(self, predictions: JudgedPredictions) -> CoveredAnswers:
        sets, of_sets = self._sets(predictions)
        left_open, of_answers = self._left_open(predictions)
        return CoveredAnswers([*of_sets, *of_answers], left_open, sets)

    def _sets(self, predictions: JudgedPredictions) -> tuple[list[list[str]] | None, list[str]]:
        calibration, several = predictions.calibration, predictions.answers is not None
        if self.coverage is None:
            return None, []
        if calibration is None:
            every = "labels" if several else "classes"
            note = f"sets hold all {every}: {uncalibrated_words(predictions.run.info)}; fit again"
            return [list(predictions.class_names)] * len(predictions.probabilities), [note]
        conformal = calibration.conformal(self.coverage, self.set_method, self._per_class)
        sets = conformal.sets(predictions.probabilities)
        if predictions.answers is not None:
            sets |= predictions.answers  # those of another --threshold too
        if predictions.called is not None:
            sets[range(len(sets)), predictions.called] = True
        size = float(sets.double().sum(dim=1).mean())
        if several:
            held = f"sets that hold {self.coverage:.0%} of an image's true labels on average"
            sized = f"{held} have {size:.2f} labels per image on average"
        else:
            sized = f"sets of {self.coverage:.0%} coverage have {size:.2f} classes on average"
        return predictions.names(sets), [conformal.note, sized]

    def _left_open(self, predictions: JudgedPredictions) -> tuple[list[Any] | None, list[str]]:
        """Labels that are left open are named no more."""
        calibration, probs = predictions.calibration, predictions.probabilities
        if self.max_error is None:
            return None, []
        if calibration is None:
            left = torch.ones_like(probs[:, 0] if predictions.answers is None else probs, dtype=torch.bool)
            notes = [f"all answers are left open: {uncalibrated_words(predictions.run.info)}; fit again"]
        else:
            left = calibration.open_answers(probs, self.max_error)
            share = float(left.double().mean())
            notes = [f"{share:.1%} of the answers are left open, for an error of at most {self.max_error:.1%}"]
            notes += calibration.abstention_notes(self.max_error)
        if predictions.answers is None:
            return left.tolist(), notes
        predictions.answers &= ~left
        return predictions.names(left), notes

    def _trusted(self, fit: JudgedClassifier) -> Trusted:
        calibration = fit.calibration
        if calibration is None:
            why = uncalibrated_words(fit.use.run.info)
            return Trusted(notes=(f"{why}, so nothing can be promised about sets or errors; fit again",))
        labels, groups, notes = fit.labels, fit.scores.groups, []
        probs, sets, left = calibration.probabilities(fit.scores.adapted_logits), None, None
        if self.coverage is not None:
            conformal = calibration.conformal(self.coverage, self.set_method, self._per_class)
            sets = conformal.scores(probs, labels, groups)
            sets["by_class"] = held_by_class(conformal.sets(probs), labels, calibration.class_names, groups)
            notes.append((words_of_labels if calibration.multilabel else coverage_sentence)(sets))
            notes += [note for note in (least_words(sets["by_class"]), conformal.note) if note]
        if self.max_error is not None:
            left = calibration.selective(probs, labels, self.max_error, groups)
            why = calibration.abstention_notes(self.max_error)
            all_open = left.open == 1 and not calibration.multilabel
            notes += why if why and all_open else [left.words, *why]
        return Trusted(notes, sets, left)

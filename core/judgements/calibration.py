"""How sure a fitted model may be: the calibration of its confidences, and how far its answers can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..confidence.calibration import TABLE_COVERAGES, Calibration
from ..contracts.judgement import EVAL, JudgedClassifier, Judgement, Place, Record, Scores, beside
from ..metrics.classification import label_answer_metrics
from ..metrics.resampling import calibration_draws, label_answer_draws, units_of
from ..metrics.significance import CalibrationBin, calibration_curve, intervals_of
from ..runs.measures import AT_HALF
from ..runs.sections import CalibrationSection, Cell, TableSection
from ._calibration_rows import calibration_of
from ._selective import between_words, selective_scores

TABLE_ERRORS = (0.05, 0.1)
THRESHOLDS = (
    "macro F1 and accuracy of the adapted model use the threshold of each label that is best on the calibration rows, "
    "as predict does; zero-shot and the linear probe have none, so compare them at 0.5"
)
HALF = "macro F1 and accuracy use a threshold of 0.5 on the raw probability of each label"
OTHER_CLASSES = "confidences are not calibrated, because these are not the classes of the run"


@dataclass(frozen=True, eq=False)
class Calibrated(Record):
    """How confidences are made.

    Attributes:
        thresholds: label -> the probability from which on an image has it, where it may have several; else none.
        calibration: what confidences are made with, or None.
        why_not: why there is no calibration, or why it is not the usual one; "" where there is nothing to say.
        scores: that were calibrated.
        before, after: the calibration error without it and with it.
        at: "fit" or "eval".
        own_classes: whether the scores are of the classes of the fit.
    """

    thresholds: Mapping[str, float] | None = None
    calibration: Calibration | None = beside()
    why_not: str = beside("")
    scores: Scores | None = beside()
    before: float = beside(0.0)
    after: float = beside(0.0)
    at: str = beside(EVAL)
    own_classes: bool = beside(True)

    def values_by_key(self) -> dict[str, Any]:
        return {} if self.thresholds is None else {"thresholds": self.thresholds}

    @classmethod
    def from_json(cls, metrics: Mapping[str, Any]) -> Calibrated | None:
        return cls(metrics["thresholds"]) if "thresholds" in metrics else None

    @property
    def notes(self) -> list[str]:
        if not self.own_classes:
            return [OTHER_CLASSES]
        if self.at == EVAL or self.scores.labels is None:
            return []
        several = self.scores.labels.ndim == 2
        if self.calibration is None:
            return [f"confidences are not calibrated: {self.why_not}", *([HALF] if several else [])]
        instead = f" ({self.why_not})" if self.why_not else ""
        calibrated = (
            f"confidences are calibrated ({self.calibration.scaling.words}) on {self.calibration.source}{instead}; the "
            f"calibration error goes from {self.before:.1%} to {self.after:.1%}"
        )
        return [calibrated, THRESHOLDS] if several else [calibrated]

    def facts(self) -> dict[str, Any]:
        kept = self.calibration
        return {"not_calibrated": self.why_not} if kept is None else {"calibration": kept.facts()}

    def save(self, folder: Path) -> None:
        if self.calibration is not None:
            self.calibration.save(folder)

    def section(self) -> list[Any]:
        """How confidence and accuracy agree, and what follows for sets and for answers left open."""
        if self.scores is None or self.scores.labels is None:
            return []
        return [self._curves(), trust_section(self.calibration, self.scores)]

    def _curves(self) -> CalibrationSection:
        scores, metrics = self.scores, self.scores.metrics
        before, confident = scores.zero_shot_logits, scores.adapted_logits
        confident = confident if self.calibration is None else self.calibration.scaling.logits(confident)
        after = calibration_curve(confident, scores.labels)
        old, ece = (metrics.get("zero_shot") or {}).get("ece"), metrics["adapted"].get("ece")
        zero_shot = None if before is None else ("zero-shot", old, calibration_curve(before, scores.labels))
        words = _calibration_words(after) + self._how_made(metrics["adapted"].get("ece_uncalibrated"))
        several, title = scores.labels.ndim == 2, "Can its confidence be trusted?"
        return CalibrationSection(title, zero_shot, ("adapted", ece, after), words, several)

    def _how_made(self, raw: float | None) -> str:
        """How confidences were made, to follow a sentence.

        Args:
            raw: the calibration error without it.
        """
        if self.calibration is None or raw is None:
            return " Its confidences are not calibrated." if self.calibration is None else ""
        return (
            f" Its confidences are calibrated ({self.calibration.scaling.words}) on {self.calibration.source}; without "
            f"that, the calibration error would be {raw:.3f}."
        )


@dataclass(eq=False, kw_only=True)
class Calibrate(Judgement):
    """Confidences calibrated on labelled images that chose nothing; of a run that is scored again, as it keeps them."""

    record: ClassVar = Calibrated
    place: ClassVar = Place.TRUST
    refits: ClassVar = True

    def compute(self, fit: JudgedClassifier) -> Calibrated:
        """Sets `fit.calibration`, and puts the calibrated scores in the place of the raw ones."""
        if fit.at != EVAL:
            fit.calibration, fit.not_calibrated = calibration_of(fit)
        elif fit.own_classes:
            fit.calibration = Calibration.load(fit.run)
        of, errors = {"at": fit.at, "own_classes": fit.own_classes, "scores": fit.scores}, (0.0, 0.0)
        thresholds, calibration = None, fit.calibration
        if calibration is not None and fit.labels is not None:
            errors = on_calibrated(calibration, fit.scores)
            if calibration.multilabel:
                thresholds = dict(zip(calibration.class_names, calibration.thresholds.tolist()))
        return Calibrated(thresholds, calibration, fit.not_calibrated, before=errors[0], after=errors[1], **of)


def on_calibrated(calibration: Calibration, scores: Scores) -> tuple[float, float]:
    """Put the calibration error of calibrated confidences in the place of the raw one, which stays beside it as
    "ece_uncalibrated"; with several labels also macro F1 and accuracy from the run's own thresholds on in the place of
    those from 0.5 on, which stay as "..._at_half". Zero-shot and the linear probe have neither calibration nor
    thresholds.

    Returns:
        The error before and after.
    """
    metrics, logits, labels, groups = scores.metrics, scores.adapted_logits, scores.labels, scores.groups
    before, after = calibration.errors(logits, labels)
    draws = {"ece": calibration_draws(calibration.scaling.logits(logits), labels, groups)}
    values, raw = {"ece": after}, {"ece": "ece_uncalibrated"}
    if calibration.multilabel:
        answers = calibration.answers(logits)
        values |= label_answer_metrics(answers, labels)
        draws |= label_answer_draws(answers, labels, groups)
        raw |= {key: f"{key}{AT_HALF}" for key in ("macro_f1", "accuracy")}
    between = metrics.get("metric_intervals") or {}
    baselines = (metrics.get("baselines") or {}).values()
    for side in (metrics["zero_shot"], metrics["adapted"], *baselines, *between.values()):
        _keep_raw(side, raw)
    metrics["adapted"] |= {**values, "ece_uncalibrated": before}
    if between:
        units = units_of(groups, len(labels))[1]
        between["adapted"] |= intervals_of(draws, units=units, values={"ece": after})
    return before, after


def _keep_raw(side: dict[str, Any] | None, raw: Mapping[str, str]) -> None:
    """Values, or intervals, under a second name, so that like is compared with like."""
    if side is not None:
        side |= {name: side[key] for key, name in raw.items() if key in side}


def _calibration_words(curve: list[CalibrationBin]) -> str:
    """Over- or under-confident, told from the mean gap."""
    filled = [b for b in curve if b.count]
    gap = sum(b.count * (b.confidence - b.accuracy) for b in filled) / sum(b.count for b in filled)
    if abs(gap) < 0.02:
        return "On the whole, the adapted model is as confident as it is accurate."
    how = (
        "more confident than it is accurate (overconfident)"
        if gap > 0
        else "less confident than it is accurate (underconfident)"
    )
    return f"On the whole, the adapted model is {how}, by {100 * abs(gap):.0f} points."


def trust_section(calibration: Calibration | None, scores: Scores) -> TableSection | None:
    """The table of the report: coverage and size of sets, and what is left open for a bounded error."""
    if calibration is None:
        return None
    labels, groups = scores.labels, scores.groups
    probs = calibration.probabilities(scores.adapted_logits)
    rows = [_coverage_row(calibration, probs, labels, coverage, groups) for coverage in TABLE_COVERAGES]
    for max_error in TABLE_ERRORS:
        left = selective_scores(calibration, probs, labels, max_error, groups)
        wrong = "–" if left.error is None else f"{left.error:.1%} of the answers are wrong"
        asked = f"Answers of which at most {max_error:.0%} are wrong"
        rows.append((asked, Cell(wrong, between_words(left.interval)), f"{left.open:.1%} left open"))
    note = (
        f"Made from {calibration.source}; no choice was based on them. “vladapt predict --coverage 0.9” names the "
        "sets, “--max-error 0.05” leaves answers open. The promise holds for images drawn like these."
    )
    return TableSection("How far the answers can be trusted", ("Asked for", "On the test images", ""), rows, note)


def _coverage_row(calibration: Calibration, probs: Tensor, labels: Tensor, coverage: float, groups) -> tuple:
    sets, several = calibration.conformal(coverage), calibration.multilabel
    scores, noun = sets.scores(probs, labels, groups), "labels" if several else "classes"
    share = "–" if scores["coverage"] is None else f"{scores['coverage']:.1%}"
    held = f"{coverage:.0%} of the true labels" if several else f"the right class in {coverage:.0%} of cases"
    size = f"all {noun}" if sets.of_all_classes else f"{scores['mean_set_size']:.2f} {noun}"
    return f"Sets that hold {held}", Cell(share, between_words(scores["interval"])), size

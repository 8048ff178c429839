"""What scores, reports and predictions say of how far answers can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...confidence.calibration import Calibration
from ...confidence.conformal import words_of
from ...contracts.task import Use
from ...runs.sections import Cell, TableSection
from .scoring import Scores

TABLE_COVERAGES = (0.8, 0.9, 0.95)
TABLE_ERRORS = (0.05, 0.1)
UNCALIBRATED = "this run has no calibration rows"


def calibrate_scores(calibration: Calibration | None, scores: Scores) -> list[str]:
    """Put the calibration error after calibrating in the place of the one before, which is kept beside it; a sentence
    for the user."""
    if scores.labels is None:
        return []
    if calibration is None:
        return [
            "confidences are not calibrated: too few images per class to score some by a fit on the others, and no "
            "validation images to spare"
        ]
    before, after = calibration.errors(scores.adapted_logits, scores.labels)
    scores.metrics["adapted"] |= {"ece": after, "ece_uncalibrated": before}
    return [
        f"confidences are calibrated ({calibration.scaling.words}) on {calibration.source}; the calibration error goes "
        f"from {before:.1%} to {after:.1%}"
    ]


def calibrated_again(use: Use, scores: Scores) -> list[str]:
    """The run's calibration on the scores of an evaluation, with what `use` asks for; sentences for the user."""
    calibration = Calibration.load(use.run.path)
    if scores.labels is None:
        return []
    if calibration is None:
        asked = use.coverage is not None or use.max_error is not None
        return [f"{UNCALIBRATED}, so nothing is promised of sets or errors; fit again"] if asked else []
    before, after = calibration.errors(scores.adapted_logits, scores.labels)
    scores.metrics["adapted"] |= {"ece": after, "ece_uncalibrated": before}
    wishes = (use.coverage, use.set_method or "lac", use.max_error)
    told, notes = trust_scores(calibration, scores.adapted_logits, scores.labels, *wishes)
    scores.metrics.update(told)
    return notes


def trust_scores(
    calibration: Calibration | None,
    logits: Tensor,
    labels: Tensor,
    coverage: float | None,
    method: str,
    max_error: float | None,
) -> tuple[dict[str, Any], list[str]]:
    """What metrics say of sets and of answers left open, and sentences for the user.

    Args:
        logits: (N, C) of labelled images.
        coverage, max_error: what is asked for, or None.
    """
    if calibration is None or (coverage is None and max_error is None):
        return {}, []
    probs, told, notes = calibration.probabilities(logits), {}, []
    if coverage is not None:
        conformal = calibration.conformal(coverage, method)
        told["conformal"] = conformal.scores(probs, labels)
        notes.append(words_of(told["conformal"]))
        notes += [conformal.note] if conformal.note else []
    if max_error is not None:
        told["selective"] = selective_scores(calibration, probs, labels, max_error)
        notes += [_selective_words(told["selective"]), *abstention_notes(calibration, max_error)]
    return told, notes


def selective_scores(calibration: Calibration, probs: Tensor, labels: Tensor, max_error: float) -> dict[str, Any]:
    """Share of answers left open, and the error of the others; with several labels, over all known labels."""
    left = calibration.open_answers(probs, max_error)
    if calibration.multilabel:
        known = ~labels.isnan()
        right = ((probs >= calibration.thresholds) == (labels == 1))[known]
        left = left[known]
    else:
        right = probs.argmax(dim=1) == labels
    answered = int((~left).sum())
    return {
        "max_error": max_error,
        "open": float(left.double().mean()),
        "answered": answered,
        "error": float((~right[~left]).double().mean()) if answered else None,
    }


def abstention_notes(calibration: Calibration, max_error: float) -> list[str]:
    """Why answers are left open where all are, label by label."""
    found = calibration.abstentions(max_error)
    if not calibration.multilabel:
        return [found[0].note] if found[0].note else []
    shut = [name for name, each in zip(calibration.class_names, found) if each.note]
    if not shut:
        return []
    return [f"always left open, for too few calibration rows or too many mistakes: {', '.join(shut)}"]


def trust_section(calibration: Calibration | None, logits: Tensor, labels: Tensor) -> TableSection | None:
    """The table of the report: coverage and size of sets, and what is left open for a bounded error."""
    if calibration is None:
        return None
    probs, rows = calibration.probabilities(logits), []
    for coverage in () if calibration.multilabel else TABLE_COVERAGES:
        conformal = calibration.conformal(coverage)
        scores = conformal.scores(probs, labels)
        low, high = scores["interval"]
        held = Cell(f"{scores['coverage']:.1%}", f"{low:.1%} to {high:.1%}")
        size = "all classes" if conformal.of_all_classes else f"{scores['mean_set_size']:.2f} classes"
        rows.append((f"Sets that hold the right class in {coverage:.0%} of cases", held, size))
    for max_error in TABLE_ERRORS:
        scores = selective_scores(calibration, probs, labels, max_error)
        wrong = "–" if scores["error"] is None else f"{scores['error']:.1%} of the answers are wrong"
        asked = f"Answers of which at most {max_error:.0%} are wrong"
        rows.append((asked, Cell(wrong), f"{scores['open']:.1%} left open"))
    sets = "" if calibration.multilabel else "“vladapt predict --coverage 0.9” names the sets, "
    leaves = f"“{'' if sets else 'vladapt predict '}--max-error 0.05” leaves answers open"
    note = (
        f"Made from {calibration.source}; they chose nothing. {sets}{leaves}. The promise holds for images drawn like "
        "these."
    )
    return TableSection("How far the answers can be trusted", ("Asked for", "On the test images", ""), rows, note)


def calibrated_words(metrics: Mapping[str, Any], calibration: Calibration | None) -> str:
    """What a report says of how confidences were made, to follow a sentence."""
    raw = metrics["adapted"].get("ece_uncalibrated")
    if calibration is None or raw is None:
        return " Its confidences are not calibrated." if calibration is None else ""
    return (
        f" Its confidences are calibrated ({calibration.scaling.words}) on {calibration.source}; without that the "
        f"calibration error would be {raw:.3f}."
    )


def _selective_words(scores: dict[str, Any]) -> str:
    rest = "none is given" if scores["error"] is None else f"{scores['error']:.1%} of the others are wrong"
    return (
        f"for an error of at most {scores['max_error']:.1%}, {scores['open']:.1%} of the answers are left open; {rest}"
    )

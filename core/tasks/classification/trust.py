"""What scores, reports and predictions say of how far answers can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...confidence.calibration import Calibration
from ...confidence.conformal import words_of
from ...confidence.label_sets import words_of_labels
from ...contracts.task import Use
from ...metrics.classification import label_answer_metrics
from ...metrics.resampling import calibration_draws, label_answer_draws, units_of
from ...metrics.significance import intervals_of, share_interval
from ...runs.sections import Cell, TableSection
from .scoring import Scores

TABLE_COVERAGES = (0.8, 0.9, 0.95)
TABLE_ERRORS = (0.05, 0.1)
UNCALIBRATED = "this run has no calibration rows"
THRESHOLDS = (
    "macro F1 and accuracy of the adapted model use the threshold of each label that is best on the calibration rows, "
    "as predict does; zero-shot and the linear probe have none, so compare them at 0.5"
)
AT_HALF = "_at_half"
"""After the names of metrics of several labels that are answered from a probability of 0.5 on."""


def calibrate_scores(calibration: Calibration | None, scores: Scores, why_not: str = "") -> list[str]:
    """The scores of a fit with its confidences calibrated, see `on_calibrated`; a sentence for the user.

    Args:
        why_not: why there is no calibration, or why it is not the usual one; "" where there is nothing to say.
    """
    if scores.labels is None:
        return []
    several = scores.labels.ndim == 2
    if calibration is None:
        at_half = (
            ["macro F1 and accuracy use a threshold of 0.5 on the raw probability of each label"] if several else []
        )
        return [f"confidences are not calibrated: {why_not}", *at_half]
    before, after = on_calibrated(calibration, scores)
    instead = f" ({why_not})" if why_not else ""
    calibrated = (
        f"confidences are calibrated ({calibration.scaling.words}) on {calibration.source}{instead}; the calibration "
        f"error goes from {before:.1%} to {after:.1%}"
    )
    return [calibrated, THRESHOLDS] if several else [calibrated]


def calibrated_again(use: Use, scores: Scores) -> list[str]:
    """The run's calibration on the scores of an evaluation, with what `use` asks for; sentences for the user."""
    calibration = Calibration.load(use.run.path)
    if scores.labels is None:
        return []
    if calibration is None:
        asked = use.coverage is not None or use.max_error is not None
        why = uncalibrated_words(use.run.info)
        return [f"{why}, so nothing can be promised about sets or errors; fit again"] if asked else []
    on_calibrated(calibration, scores)
    wishes = (use.coverage, use.set_method, use.max_error)
    told, notes = trust_scores(calibration, scores.adapted_logits, scores.labels, *wishes, groups=scores.groups)
    scores.metrics.update(told)
    return notes


def uncalibrated_words(info: Mapping[str, Any]) -> str:
    """That a run has no calibration rows, and why."""
    reason = info.get("not_calibrated")
    return f"{UNCALIBRATED} ({reason})" if reason else UNCALIBRATED


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
        metrics["thresholds"] = dict(zip(calibration.class_names, calibration.thresholds.tolist()))
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


def trust_scores(
    calibration: Calibration | None,
    logits: Tensor,
    labels: Tensor,
    coverage: float | None,
    method: str | None,
    max_error: float | None,
    groups: Sequence[str] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """What metrics say of sets and of answers left open, and sentences for the user.

    Args:
        logits: (N, C) of labelled images.
        coverage, max_error: what is asked for, or None.
        method: how sets are made, or None.
        groups: N keys of images that belong together; intervals then draw groups.
    """
    if calibration is None or (coverage is None and max_error is None):
        return {}, []
    probs, told, notes = calibration.probabilities(logits), {}, []
    if coverage is not None:
        conformal = calibration.conformal(coverage, method)
        told["conformal"] = conformal.scores(probs, labels, groups)
        notes.append((words_of_labels if calibration.multilabel else words_of)(told["conformal"]))
        notes += [conformal.note] if conformal.note else []
    if max_error is not None:
        told["selective"] = selective_scores(calibration, probs, labels, max_error, groups)
        why = abstention_notes(calibration, max_error)
        all_open = told["selective"]["open"] == 1 and not calibration.multilabel
        notes += why if why and all_open else [_selective_words(told["selective"]), *why]
    return told, notes


def selective_scores(
    calibration: Calibration, probs: Tensor, labels: Tensor, max_error: float, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """Share of answers left open, and the error of the others with its interval; with several labels, over all known
    labels, those of one image together."""
    left = calibration.open_answers(probs, max_error)
    units = [group or f"image {row}" for row, group in enumerate(groups or [""] * len(labels))]
    if calibration.multilabel:
        known = ~labels.isnan()
        right = (calibration.answers_of(probs) == (labels == 1))[known]
        left = left[known]
        units = [units[row] for row in known.nonzero()[:, 0].tolist()]
    else:
        right = probs.argmax(dim=1) == labels
    given = ~left
    of_given = [unit for unit, one in zip(units, given.tolist()) if one]
    return {
        "max_error": max_error,
        "open": float(left.double().mean()),
        "answered": int(given.sum()),
        "error": float((~right[given]).double().mean()) if of_given else None,
        "interval": share_interval(~right[given], of_given) if of_given else None,
    }


def abstention_notes(calibration: Calibration, max_error: float) -> list[str]:
    """Why answers are left open where all are, label by label."""
    found = calibration.abstentions(max_error)
    if not calibration.multilabel:
        return [found[0].note] if found[0].note else []
    shut = [name for name, each in zip(calibration.class_names, found) if each.note]
    if not shut:
        return []
    return [f"always left open, because of too few calibration rows or too many mistakes: {', '.join(shut)}"]


def trust_section(
    calibration: Calibration | None, logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None
) -> TableSection | None:
    """The table of the report: coverage and size of sets, and what is left open for a bounded error."""
    if calibration is None:
        return None
    probs = calibration.probabilities(logits)
    rows = [_coverage_row(calibration, probs, labels, coverage, groups) for coverage in TABLE_COVERAGES]
    for max_error in TABLE_ERRORS:
        scores = selective_scores(calibration, probs, labels, max_error, groups)
        wrong = "–" if scores["error"] is None else f"{scores['error']:.1%} of the answers are wrong"
        asked = f"Answers of which at most {max_error:.0%} are wrong"
        rows.append((asked, Cell(wrong, _between(scores["interval"])), f"{scores['open']:.1%} left open"))
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
    return f"Sets that hold {held}", Cell(share, _between(scores["interval"])), size


def _between(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.1%} to {bounds[1]:.1%}" if bounds else ""


def calibrated_words(metrics: Mapping[str, Any], calibration: Calibration | None) -> str:
    """What a report says of how confidences were made, to follow a sentence."""
    raw = metrics["adapted"].get("ece_uncalibrated")
    if calibration is None or raw is None:
        return " Its confidences are not calibrated." if calibration is None else ""
    return (
        f" Its confidences are calibrated ({calibration.scaling.words}) on {calibration.source}; without that, the "
        f"calibration error would be {raw:.3f}."
    )


def _selective_words(scores: dict[str, Any]) -> str:
    rest = "none is given"
    if scores["error"] is not None:
        rest = f"{scores['error']:.1%} of the others are wrong (95 % interval {_between(scores['interval'])})"
    return (
        f"for an error of at most {scores['max_error']:.1%}, {scores['open']:.1%} of the answers are left open; {rest}"
    )

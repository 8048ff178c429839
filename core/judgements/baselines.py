"""Is the adapted model better than what one has without it? Intervals, baselines and the tests against them.

Baselines are zero-shot, always answering the largest class of the test set, and a logistic regression on the same
features, fitted on the same few images. The strongest of them is the one to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..confidence.scaling import calibration_error
from ..contracts.judgement import JudgedClassifier, Judgement, Place, Scores
from ..metrics.classification import classification_metrics, multilabel_metrics
from ..metrics.resampling import (
    answer_draws,
    centred,
    exchange_test,
    metric_draws,
    paired_difference,
    percentiles,
    units_of,
)
from ..metrics.selection import class_range, deciding_metric, weights_of_answers
from ..metrics.significance import intervals_of, mcnemar, wilson_interval
from ..runs.comparison import GUESSING, LARGEST, LINEAR, ZERO_SHOT, Baseline, Comparison


@dataclass(eq=False, kw_only=True)
class Baselines(Judgement):
    """The adapted model against each baseline in the metric that decides."""

    record: ClassVar = Comparison
    place: ClassVar = Place.VERDICT

    def compute(self, fit: JudgedClassifier) -> Comparison | None:
        return None if fit.labels is None else compared(fit.scores, fit.class_names, fit.deciding)


def compared(scores: Scores, class_names: Sequence[str], deciding: str = "") -> Comparison:
    """The adapted model against its baselines.

    Args:
        scores: with labels.
        class_names: C names.
        deciding: "accuracy" or "balanced_accuracy", where a protocol says which decides; "" for `deciding_metric`.
    """
    sides = {"adapted": scores.adapted_logits, ZERO_SHOT: scores.zero_shot_logits, LINEAR: scores.probe_logits}
    sides = {name: logits.float() for name, logits in sides.items() if logits is not None}
    groups = scores.groups
    units = None if groups is None else units_of(groups, len(scores.labels))[1]
    before, after = scores.metrics.get("zero_shot"), scores.metrics["adapted"]
    of = {"test_groups": units, "adapted": after, "zero_shot": before, "test_images": len(scores.labels)}
    if scores.labels.ndim == 2:
        return replace(_several_labels(scores, class_names, sides), **of)
    return replace(_one_label(scores, class_names, sides, deciding or deciding_metric(scores.labels)), **of)


def _one_label(scores: Scores, names: Sequence[str], sides: Mapping[str, Tensor], deciding: str) -> Comparison:
    """Answers compared, and their confidence."""
    labels, groups, classes = scores.labels, scores.groups, len(names)
    draws = {side: metric_draws(logits, labels, groups) for side, logits in sides.items()}
    answers = {side: logits.argmax(dim=1) for side, logits in sides.items()}
    units, shares = units_of(groups, len(labels))[1], {side: _shares(of, labels) for side, of in answers.items()}
    values = {side: {**shares[side], "ece": calibration_error(of, labels)} for side, of in sides.items()}
    between = {side: intervals_of(of, units=units, values=values[side]) for side, of in draws.items()}
    if groups is None:
        for side, answer in answers.items():
            between[side]["accuracy"] = list(wilson_interval(int((answer == labels).sum()), len(labels)))
    largest = int(torch.bincount(labels).argmax())
    answers[LARGEST] = torch.full_like(labels, largest)
    draws[LARGEST] = answer_draws(answers[LARGEST], labels, classes, groups)
    baselines: dict[str, Baseline] = {}
    for name in (ZERO_SHOT, LARGEST, LINEAR):
        if name in answers:
            gain = draws["adapted"][deciding] - draws[name][deciding]
            reached = _shares(answers[name], labels)
            difference = shares["adapted"][deciding] - reached[deciding]
            baselines[name] = Baseline(
                reached if name != LINEAR else classification_metrics(sides[LINEAR], labels, classes),
                difference,
                _as_list(percentiles(centred(gain, difference))),
                _p_of_answers(answers["adapted"], answers[name], labels, groups, deciding),
                names[largest] if name == LARGEST else None,
                of=name,
            )
    test = None
    if ZERO_SHOT in sides:
        test = vars(mcnemar(answers[ZERO_SHOT] == labels, answers["adapted"] == labels))
        if groups is not None:
            test["p_value"] = _p_of_answers(answers["adapted"], answers[ZERO_SHOT], labels, groups, "accuracy")
    return Comparison(
        intervals={side: of["accuracy"] for side, of in between.items()},
        metric_intervals=between,
        deciding=deciding,
        baselines=baselines,
        mcnemar=test,
        decided_by_protocol=deciding != deciding_metric(labels),
        class_range=class_range(labels),
    )


def _shares(answers: Tensor, labels: Tensor) -> dict[str, float]:
    right = (answers == labels).double()
    return {key: float((right * weights_of_answers(labels, key)).sum()) for key in ("accuracy", "balanced_accuracy")}


def _p_of_answers(one: Tensor, other: Tensor, labels: Tensor, groups: Sequence[str] | None, deciding: str) -> float:
    """McNemar's exact test of accuracies; a permutation test of balanced ones, and where there are groups."""
    right, right_before = one == labels, other == labels
    if deciding == "accuracy" and groups is None:
        return mcnemar(right_before, right).p_value
    return exchange_test((right.double() - right_before.double()) * weights_of_answers(labels, deciding), groups)


def _several_labels(given: Scores, class_names: Sequence[str], sides: Mapping[str, Tensor]) -> Comparison:
    """AUROCs compared."""
    labels, groups = given.labels, given.groups
    names, units = list(class_names), units_of(groups, len(labels))[1]
    scores = {side: multilabel_metrics(logits, labels, names) for side, logits in sides.items()}
    draws = {side: metric_draws(of, labels, groups, class_names=names) for side, of in sides.items()}
    values = {side: {"ece": scores[side]["ece"]} for side in draws}
    between = {side: intervals_of(of, units=units, values=values[side]) for side, of in draws.items()}
    scores[GUESSING] = {"auroc": None if scores["adapted"]["auroc"] is None else 0.5}
    baselines = {}
    for name in (ZERO_SHOT, GUESSING, LINEAR):
        if name in scores:
            gain = draws["adapted"]["auroc"] - (0.5 if name == GUESSING else draws[name]["auroc"])
            difference = interval = p_value = None
            if scores["adapted"]["auroc"] is not None:
                difference = scores["adapted"]["auroc"] - scores[name]["auroc"]
                interval, p_value = paired_difference(gain, difference)
            baselines[name] = Baseline(scores[name], difference, interval, p_value, of=name)
    return Comparison(
        intervals={side: of.get("auroc") for side, of in between.items()},
        metric_intervals=between,
        deciding="auroc",
        baselines=baselines,
        gain_interval=baselines[ZERO_SHOT].interval if ZERO_SHOT in baselines else None,
    )


def _as_list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)

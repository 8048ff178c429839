"""Is the adapted model better than what one has without it? Intervals, baselines and the tests against them.

Baselines are zero-shot, always answering the largest class of the test set, and a logistic regression on the same
features, fitted on the same few images. The strongest of them is the one to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...confidence.scaling import calibration_error
from ...contracts.adapter import Adapter
from ...contracts.domain import Item
from ...contracts.features import FeatureSet, TextClassifier
from ...errors import CapabilityError
from ...metrics.classification import classification_metrics, multilabel_metrics
from ...metrics.resampling import (
    answer_draws,
    centred,
    exchange_test,
    metric_draws,
    paired_difference,
    percentiles,
    units_of,
)
from ...metrics.significance import SIGNIFICANT, intervals_of, mcnemar, wilson_interval
from ...registry import build_adapter

PROBE = "linear-probe"
PROBE_FILE = "linear-probe.safetensors"
"""The logistic regression of a run, with which an evaluation on other data compares."""
MOST_PROBED = 1000
"""Labelled images up to which a logistic regression is fitted beside the adapter."""
LARGEST_CLASS = "largest-class"
"""What always answering the largest class of the test set is called among the methods of a comparison."""
UNEQUAL = 1.5
"""Largest over smallest class of the test set above which balanced accuracy decides."""
ZERO_SHOT, LARGEST, LINEAR, GUESSING = "zero_shot", "largest_class", "linear_probe", "guessing"


@dataclass(frozen=True)
class Judged:
    """What is compared, on the same N test images.

    Args:
        adapted: (N, C) logits.
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
        class_names: C names.
        groups: N keys of images that belong together, or None.
        zero_shot: (N, C) logits, or None where zero-shot means nothing.
        probe: (N, C) logits of the logistic regression, or None.
        deciding: "accuracy" or "balanced_accuracy", where a protocol says which decides; "" for `deciding_metric`.
    """

    adapted: Tensor
    labels: Tensor
    class_names: Sequence[str]
    groups: Sequence[str] | None = None
    zero_shot: Tensor | None = None
    probe: Tensor | None = None
    deciding: str = ""

    @property
    def sides(self) -> dict[str, Tensor]:
        sides = {"adapted": self.adapted, ZERO_SHOT: self.zero_shot, LINEAR: self.probe}
        return {name: logits for name, logits in sides.items() if logits is not None}


def judgement(judged: Judged) -> dict[str, Any]:
    """What metrics.json says of certainty.

    Returns:
        "intervals": side -> [low, high] of accuracy, or of macro AUROC with several labels;
        "metric_intervals": side -> metric -> [low, high]; "mcnemar": against zero-shot, or None;
        "deciding": the metric that decides, and "decided_by_protocol" where it would be another one without it;
        "class_range": [fewest, most] test images of a class;
        "baselines": name -> its scores, and of the adapted model's gain in the deciding metric "difference", "interval"
        and "p_value"; "strongest": the best baseline; "test_groups": their number, where there are groups. With several
        labels also "gain_interval", of macro AUROC over zero-shot.
    """
    found = _several_labels(judged) if judged.labels.ndim == 2 else _one_label(judged)
    baselines, deciding = found["baselines"], found["deciding"]
    known = [name for name in baselines if baselines[name].get(deciding) is not None]
    found["strongest"] = max(known, key=lambda name: baselines[name][deciding], default=None)
    if judged.groups is not None:
        found["test_groups"] = units_of(judged.groups, len(judged.labels))[1]
    return found


def deciding_metric(labels: Tensor) -> str:
    """Accuracy, or balanced accuracy where the classes of the test set are unequal, or macro AUROC."""
    if labels.ndim == 2:
        return "auroc"
    fewest, most = class_range(labels)
    return "balanced_accuracy" if most > UNEQUAL * fewest else "accuracy"


def class_range(labels: Tensor) -> tuple[int, int]:
    """The fewest and the most images of a class that has any."""
    counts = torch.bincount(labels.long().cpu())
    counts = counts[counts > 0]
    return int(counts.min()), int(counts.max())


def above_guessing(metrics: Mapping[str, Any]) -> bool | None:
    """Whether the adapted model beats the largest class, or guessing, beyond chance; None where nobody can say."""
    baselines = metrics.get("baselines") or {}
    floor = baselines.get(LARGEST) or baselines.get(GUESSING)
    if not floor or floor.get("p_value") is None:
        return None
    return floor["p_value"] < SIGNIFICANT and floor["difference"] > 0


def fitted_probe(
    adapter: Adapter,
    support: FeatureSet,
    classifier: TextClassifier,
    val: FeatureSet | None,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Adapter | None:
    """The logistic regression on the images that an adapter was fitted on; None where it is that itself, where there
    are no labelled images or more than 1000, or where they are all of one class.

    Args:
        options: of the regression, where a protocol has others.
    """
    if adapter.name == PROBE or support.labels is None or not 0 < len(support) <= MOST_PROBED:
        return None
    probe = build_adapter(PROBE, **(options or {}))
    try:
        support, val = (None if each is None else each.one_view().without_parts() for each in (support, val))
        probe.fit(support, classifier, val=val, seed=seed)
    except CapabilityError:  # one class only
        return None
    return probe


def largest_class(items: Sequence[Item], num_classes: int) -> dict[str, Any] | None:
    """Metrics of always answering the largest class of test images; None where they have several labels or none."""
    labels = [item.class_label() for item in items]
    if any(label is None or isinstance(label, tuple) for label in labels):
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    present = int((counts > 0).sum())
    return {"accuracy": float(counts.max()) / len(labels), "balanced_accuracy": 1 / present, "seconds": 0.0}


def _one_label(judged: Judged) -> dict[str, Any]:
    labels, groups, classes = judged.labels, judged.groups, len(judged.class_names)
    draws = {side: metric_draws(logits, labels, groups) for side, logits in judged.sides.items()}
    answers = {side: logits.argmax(dim=1) for side, logits in judged.sides.items()}
    units, shares = units_of(groups, len(labels))[1], {side: _shares(of, labels) for side, of in answers.items()}
    values = {side: {**shares[side], "ece": calibration_error(of, labels)} for side, of in judged.sides.items()}
    between = {side: intervals_of(of, units=units, values=values[side]) for side, of in draws.items()}
    if groups is None:
        for side, answer in answers.items():
            between[side]["accuracy"] = list(wilson_interval(int((answer == labels).sum()), len(labels)))
    deciding = judged.deciding or deciding_metric(labels)
    largest = int(torch.bincount(labels).argmax())
    answers[LARGEST] = torch.full_like(labels, largest)
    draws[LARGEST] = answer_draws(answers[LARGEST], labels, classes, groups)
    baselines: dict[str, dict[str, Any]] = {}
    for name in (ZERO_SHOT, LARGEST, LINEAR):
        if name in answers:
            gain = draws["adapted"][deciding] - draws[name][deciding]
            scores = _shares(answers[name], labels)
            difference = shares["adapted"][deciding] - scores[deciding]
            baselines[name] = {
                **(scores if name != LINEAR else classification_metrics(judged.probe, labels, classes)),
                "difference": difference,
                "interval": _as_list(percentiles(centred(gain, difference))),
                "p_value": _p_of_answers(answers["adapted"], answers[name], labels, groups, deciding),
            }
    baselines[LARGEST]["class"] = judged.class_names[largest]
    test = None
    if judged.zero_shot is not None:
        test = vars(mcnemar(answers[ZERO_SHOT] == labels, answers["adapted"] == labels))
        if groups is not None:
            test["p_value"] = _p_of_answers(answers["adapted"], answers[ZERO_SHOT], labels, groups, "accuracy")
    return {
        "intervals": {side: of["accuracy"] for side, of in between.items()},
        "metric_intervals": between,
        "mcnemar": test,
        "deciding": deciding,
        **({"decided_by_protocol": True} if deciding != deciding_metric(labels) else {}),
        "class_range": list(class_range(labels)),
        "baselines": baselines,
    }


def _shares(answers: Tensor, labels: Tensor) -> dict[str, float]:
    right = (answers == labels).double()
    return {key: float((right * weights_of_answers(labels, key)).sum()) for key in ("accuracy", "balanced_accuracy")}


def weights_of_answers(labels: Tensor, deciding: str) -> Tensor:
    """(N,) what a right answer adds to the metric, accuracy or balanced accuracy."""
    if deciding == "accuracy":
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    counts = torch.bincount(labels).double()
    return 1 / (counts[labels] * (counts > 0).sum())


def _p_of_answers(one: Tensor, other: Tensor, labels: Tensor, groups: Sequence[str] | None, deciding: str) -> float:
    """McNemar's exact test of accuracies; a permutation test of balanced ones, and where there are groups."""
    right, right_before = one == labels, other == labels
    if deciding == "accuracy" and groups is None:
        return mcnemar(right_before, right).p_value
    return exchange_test((right.double() - right_before.double()) * weights_of_answers(labels, deciding), groups)


def _several_labels(judged: Judged) -> dict[str, Any]:
    labels, groups = judged.labels, judged.groups
    names, units = list(judged.class_names), units_of(groups, len(labels))[1]
    scores = {side: multilabel_metrics(logits, labels, names) for side, logits in judged.sides.items()}
    draws = {side: metric_draws(of, labels, groups, class_names=names) for side, of in judged.sides.items()}
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
            baselines[name] = {**scores[name], "difference": difference, "interval": interval, "p_value": p_value}
    return {
        "intervals": {side: of.get("auroc") for side, of in between.items()},
        "metric_intervals": between,
        "gain_interval": baselines[ZERO_SHOT]["interval"] if ZERO_SHOT in baselines else None,
        "deciding": "auroc",
        "baselines": baselines,
    }


def _as_list(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else list(bounds)

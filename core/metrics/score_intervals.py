"""The interval of each score of a classifier, named as in `classification`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .auroc_intervals import Aurocs
from .classification import probabilities
from .intervals import LEVEL, balanced_interval, normal_level, share_interval, t_quantile, units_of
from .resampling import calibration_draws, f1_draws, intervals_of, label_f1_draws, precision_draws

MOST_RANKED = 5_000_000
"""Scores (images x classes) above which an AUROC has no interval: each class sorts all of its own."""
FEWEST_OF_CLASS = 10
"""Images, or groups, of each class from which on macro F1 and mean average precision have an interval: draws of fewer
are too much alike to tell how far other images differ."""
Groups = Sequence[str] | None
Intervals = dict[str, list[float]]


def score_intervals(
    logits: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Metric -> [low, high] of 95 %.

    Args:
        logits: (N, C).
        labels: (N,) class indices, or (N, C) 0, 1 or NaN.
        values: metric -> its value on all images, as `classification_metrics` or `multilabel_metrics` gives it.
        groups: N keys of images that belong together, or None.

    Raises:
        DataError: as `probabilities`.
    """
    probs, labels = probabilities(logits, labels)
    if labels.ndim == 1:
        found = answer_intervals(logits.argmax(dim=1).cpu(), labels, values, groups)
    else:
        found = label_answer_intervals(probs > 0.5, labels, values, groups)
        if (fewest := _fewest(labels, groups)) >= FEWEST_OF_CLASS:
            draws = {"mean_average_precision": precision_draws(logits, labels, groups)}
            found |= intervals_of(draws, _wider(fewest), values=values)
    found |= calibration_interval(logits, labels, values["ece"], groups)
    return found | _auroc_intervals(logits, labels, values, groups)


def answer_intervals(
    answers: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Of accuracy, balanced accuracy and macro F1 of answers (N,); arguments as for `score_intervals`."""
    right, fewest = answers == labels, _fewest(labels, groups)
    found = {
        "accuracy": share_interval(right, groups),
        "balanced_accuracy": balanced_interval(right, labels, groups),
    }
    if fewest >= FEWEST_OF_CLASS:
        classes = int(max(answers.max(), labels.max())) + 1
        found |= intervals_of({"macro_f1": f1_draws(answers, labels, classes, groups)}, _wider(fewest), values=values)
    return found


def label_answer_intervals(
    answers: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups = None
) -> Intervals:
    """Of accuracy and macro F1 of yes-no answers (N, C) to labels (N, C); arguments as for `score_intervals`."""
    rows, columns = (~labels.isnan()).nonzero(as_tuple=True)
    right = (answers == (labels == 1))[rows, columns]
    found = {"accuracy": share_interval(right, units_of(groups, len(labels))[0][rows])}
    if (fewest := _fewest(labels, groups)) >= FEWEST_OF_CLASS:
        found |= intervals_of({"macro_f1": label_f1_draws(answers, labels, groups)}, _wider(fewest), values=values)
    return found


def calibration_interval(logits: Tensor, labels: Tensor, value: float | None, groups: Groups = None) -> Intervals:
    """Of the expected calibration error; arguments as for `score_intervals`."""
    draws = {"ece": calibration_draws(logits, labels, groups)}
    return intervals_of(draws, units=units_of(groups, len(labels))[1], values={"ece": value})


def auroc_interval(
    logits: Tensor, labels: Tensor, groups: Sequence[str] | None = None, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of the macro AUROC, which follows the label of which the fewest images tell.

    Args:
        logits: (N, C).
        labels: (N, C) 0, 1 or NaN, or (N,) class indices.
        groups: N keys of images that belong together, or None.
        level: how often such intervals hold the true value.

    Returns:
        (low, high); None where no label has both values.

    Raises:
        DataError: as `probabilities`.
    """
    aurocs = Aurocs.of_logits(logits, labels, groups)
    return aurocs.interval(level) if len(aurocs) else None


def _auroc_intervals(logits: Tensor, labels: Tensor, values: Mapping[str, float | None], groups: Groups) -> Intervals:
    """Of the mean, and with several labels of each."""
    if values["auroc"] is None or logits.numel() > MOST_RANKED:
        return {}
    aurocs = Aurocs.of_logits(logits, labels, groups)
    names = [key for key, value in values.items() if key.startswith("auroc/") and value is not None]
    of_labels = {name: bounds for name, *bounds in zip(names, *(each.tolist() for each in aurocs.limits()))}
    return {"auroc": list(aurocs.interval()), **of_labels}


def _fewest(labels: Tensor, groups: Groups) -> int:
    """Units of the class that has the fewest, among those that have any; of several labels also of those without."""
    unit, units = units_of(groups, len(labels))
    if labels.ndim == 1:
        cells = torch.stack([labels, unit]).unique(dim=1)[0]
        return int(cells.unique(return_counts=True)[1].min())
    counts = torch.stack([_units_with(labels == value, unit, units) for value in (0, 1)])  # (2, C)
    scored = (counts > 0).all(dim=0)
    return int(counts[:, scored].min()) if scored.any() else 0


def _units_with(true: Tensor, unit: Tensor, units: int) -> Tensor:
    """(C,) units of which a row is true."""
    return torch.zeros(units, true.shape[1]).index_add_(0, unit, true.float()).gt(0).sum(dim=0)


def _wider(fewest: int) -> float:
    """The level of percentiles that hold the truth as often as those of Student's t: draws with replacement vary less
    than samples do ("What teachers should know about the bootstrap", Hesterberg 2015, arXiv 1411.5279)."""
    return normal_level(float(t_quantile(fewest - 1) * np.sqrt(fewest / (fewest - 1))))

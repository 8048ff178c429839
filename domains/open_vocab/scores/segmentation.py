"""Overlap of semantic masks, from one confusion matrix of all pixels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....core.errors import ConfigError
from ..data.masks import IGNORED
from .means import base_and_novel, known, mean_of_known, or_none


@dataclass(frozen=True)
class SegmentationScores:
    """What a report shows.

    Args:
        metrics: mIoU (mean over classes that are true or predicted anywhere), pixel_accuracy, mean_accuracy (mean
            recall over classes that are true somewhere); base_mIoU, novel_mIoU and their harmonic mean hIoU with novel
            classes. In 0..1; what no pixel can tell is left out.
        per_class: class name -> {"IoU", "accuracy", "pixels"}; None where no pixel tells.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | int | None]] = field(default_factory=dict)


def confusion(truth: Any, predicted: Any, num_classes: int, ignored: int = IGNORED) -> np.ndarray:
    """(C, C + 1) int64 pixel counts: row the true class, column the predicted one, the last for no class at all.

    Args:
        truth: (...) integers; pixels of `ignored` are not counted.
        predicted: (...) integers; what is not a class number counts as a mistake.
        num_classes: C.
        ignored: the value of pixels that nothing is known of.

    Raises:
        ConfigError: different shapes, or a true class number without a class.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ConfigError(f"a mask of shape {truth.shape} against one of {predicted.shape}; resize the prediction")
    counted = truth != ignored
    rows, columns = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if rows.size and (rows.min() < 0 or rows.max() >= num_classes):
        wrong = rows[(rows < 0) | (rows >= num_classes)][0]
        raise ConfigError(
            f"a mask has class number {wrong}, but there are {num_classes} classes; give masks of these classes"
        )
    columns = np.where((columns < 0) | (columns >= num_classes), num_classes, columns)
    counts = np.bincount(rows * (num_classes + 1) + columns, minlength=num_classes * (num_classes + 1))
    return counts.reshape(num_classes, num_classes + 1)


def score_segmentation(
    matrix: np.ndarray, class_names: Sequence[str], *, novel: Collection[str] = ()
) -> SegmentationScores:
    """Scores from a confusion matrix, the sum of those of all images.

    Args:
        matrix: (C, C + 1), see `confusion`.
        class_names: C names.
        novel: names of novel classes; the others are base classes.
    """
    num_classes = len(class_names)
    if matrix.shape != (num_classes, num_classes + 1):
        raise ConfigError(f"a matrix of shape {matrix.shape} for {num_classes} classes; count with these classes")
    right = np.diagonal(matrix).astype(np.float64)  # (C,)
    true, predicted = matrix.sum(axis=1), matrix[:, :num_classes].sum(axis=0)
    overlap = _ratio(right, true + predicted - right)
    accuracy = _ratio(right, true)
    metrics = {
        "mIoU": mean_of_known(overlap),
        "pixel_accuracy": float(_ratio(right.sum(), matrix.sum())),
        "mean_accuracy": mean_of_known(accuracy),
    }
    apart = base_and_novel({"mIoU": overlap}, class_names, novel)
    metrics |= {name.replace("harmonic_mIoU", "hIoU"): value for name, value in apart.items()}
    per_class = {
        name: {"IoU": or_none(overlap[c]), "accuracy": or_none(accuracy[c]), "pixels": int(true[c])}
        for c, name in enumerate(class_names)
    }
    return SegmentationScores(known(metrics), per_class)


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """NaN where the whole is nothing."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)

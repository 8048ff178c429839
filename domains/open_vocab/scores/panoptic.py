"""Panoptic quality: each object found with its outline and its name, and nothing twice.

"Panoptic Segmentation", 2018, arXiv 1801.00868, by torchmetrics.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np
import torch

from ..data.outlines import outline_mask
from .detection import Truth
from .means import base_and_novel, known, mean_of_known, or_none

VOID = -1
"""The class of pixels that do not count: of objects that an annotation ignores."""


@dataclass(frozen=True)
class PanopticScores:
    """What a report shows.

    Args:
        metrics: PQ, SQ and RQ, means over the classes that are true or found anywhere; base_PQ, novel_PQ and their
            harmonic mean harmonic_PQ with novel classes. In 0..1; what no object can tell is left out.
        per_class: class name -> {"PQ", "SQ", "RQ"}; None where no object tells.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]] = field(default_factory=dict)


class PanopticCounts:
    """Counts over images, one at a time.

    Pixels of no class, numbered C, are counted on as one region, so that what is found on bare ground is a mistake;
    they have no part in the means.

    Args:
        class_names: C names.
        stuff: names with one region per image.
    """

    def __init__(self, class_names: Sequence[str], stuff: Collection[str] = ()):
        from torchmetrics.detection import PanopticQuality

        self.class_names, num_classes = tuple(class_names), len(class_names)
        regions = {number for number, name in enumerate(class_names) if name in stuff}
        self.things = sorted(set(range(num_classes)) - regions)
        self.stuff = sorted(regions)
        self._quality = PanopticQuality(self.things, [*self.stuff, num_classes], allow_unknown_preds_category=True)

    def add_sample(self, truth: Truth, panoptic: np.ndarray, numbers: np.ndarray | None = None) -> None:
        """An annotation, and what mmdet predicts: (H, W) class + instance * INSTANCE_OFFSET.

        Args:
            numbers: of each of the model's classes its number here; None where they are the same.
        """
        num_classes = len(self.class_names)
        numbers = np.arange(num_classes) if numbers is None else numbers
        self.add(true_segments(truth, num_classes, panoptic.shape), found_segments(panoptic, numbers, num_classes))

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Maps (H, W, 2) of class and instance: C where there is no class, `VOID` where truth does not count."""
        pair = (torch.from_numpy(np.ascontiguousarray(each, dtype=np.int64))[None] for each in (predicted, truth))
        self._quality.update(*pair)

    def scores(self, novel: Collection[str] = ()) -> PanopticScores:
        """Of all images so far; `novel` names novel classes, the others are base classes."""
        order = [*self.things, *self.stuff]  # as torchmetrics has them; after them pixels of no class
        states = (self._quality.iou_sum, self._quality.true_positives)
        overlap, found = (state.double().numpy()[: len(order)] for state in states)
        wrong = (self._quality.false_positives + self._quality.false_negatives).double().numpy()[: len(order)]
        whole = found + wrong / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            recognised = np.where(whole > 0, found / whole, nan)
            segmented = np.where(whole > 0, np.where(found > 0, overlap / found, 0.0), nan)
        table = np.full((len(self.class_names), 3), nan)
        table[order] = np.stack([recognised * segmented, segmented, recognised], axis=1)
        metrics = dict(zip(("PQ", "SQ", "RQ"), map(mean_of_known, table.T), strict=True))
        metrics |= base_and_novel({"PQ": table[:, 0]}, self.class_names, novel)
        per_class = {
            name: {key: or_none(value) for key, value in zip(("PQ", "SQ", "RQ"), row)}
            for name, row in zip(self.class_names, table, strict=True)
        }
        return PanopticScores(known(metrics), per_class)


def true_segments(truth: Truth, num_classes: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) of class and instance: what an annotation's outlines say; of two that overlap the later counts."""
    segments = np.zeros((*shape, 2), dtype=np.int64)
    segments[..., 0] = num_classes
    ignored = truth.ignored or [False] * len(truth.labels)
    for number, (label, outline, skipped) in enumerate(zip(truth.labels, truth.outlines or (), ignored), start=1):
        if outline:
            segments[outline_mask(outline, shape[::-1])] = (VOID, 0) if skipped else (label, number)
    return segments


def found_segments(panoptic: np.ndarray, numbers: np.ndarray, num_classes: int) -> np.ndarray:
    """(H, W) class + instance * INSTANCE_OFFSET, as mmdet predicts it -> (H, W, 2) of class and instance.

    Args:
        numbers: (K,) of each of the model's classes its number in the data; K itself is what no class was found for.
        num_classes: C, of the data.
    """
    from mmdet.evaluation.functional import INSTANCE_OFFSET

    classes = np.append(numbers, num_classes)[panoptic % INSTANCE_OFFSET]
    return np.stack([classes, panoptic // INSTANCE_OFFSET], axis=-1)

"""What is predicted of one image, apart from mm's own classes: boxes with scores and outlines, or a map of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....core.export import boxes, maps
from ..data.outlines import encode
from ..scores.detection import Detected

UNSURE = boxes.UNSURE
"""Boxes scored below this are not drawn and not counted in a summary, unless a user names another score or has shown
them; files have them all."""

OVERLAP = 0.5
"""Intersection over union from which on two boxes are taken to be of one thing."""


@dataclass(frozen=True)
class PredictedBoxes(Detected):
    """Boxes in the pixels of the image as it is stored, the surest first.

    Args:
        boxes: (n, 4) float x0, y0, x1, y1.
        scores: (n,) in 0..1.
        labels: (n,) class indices.
        outlines: n COCO RLEs {"size": [H, W], "counts": text}, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    outlines: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, sample: Any) -> PredictedBoxes:
        """Of an mmdet data sample with `pred_instances`."""
        instances = sample.pred_instances.cpu()
        scores = instances.scores.float().numpy()
        order = np.argsort(-scores, kind="stable")
        boxes = getattr(instances.bboxes, "tensor", instances.bboxes)  # of mmdet's own box types
        boxes = boxes.float().numpy().reshape(-1, 4)[order]
        outlines = None
        if "masks" in instances:
            masks = instances.masks
            masks = np.asarray(masks.cpu() if hasattr(masks, "cpu") else masks)
            outlines = [encode(masks[place]) for place in order]
        return cls(boxes, scores[order], instances.labels.numpy()[order], outlines)

    def without_rivals(self, apart: np.ndarray) -> PredictedBoxes:
        """Without boxes that overlap a surer one by half and whose name is a rival of its name.

        Args:
            apart: (C, C) bool, which names are rivals.
        """
        near = (box_overlaps(self.boxes, self.boxes) >= OVERLAP) & apart[self.labels][:, self.labels]
        kept: list[int] = []
        for place in range(len(self.scores)):
            if not near[place, kept].any():
                kept.append(place)
        return self.chosen(kept)

    def row(self, class_names: Sequence[str], shown: bool = False) -> dict[str, Any]:
        """As JSON-able lists, with a summary; of all where a user has shown the boxes."""
        row = {
            "boxes": [[round(float(v), 2) for v in box] for box in self.boxes],
            "scores": [round(float(score), 5) for score in self.scores],
            "labels": [class_names[label] for label in self.labels],
        }
        if self.outlines is not None:
            row["masks"] = self.outlines
        return {**row, "summary": self.summary(class_names, shown)}

    def summary(self, class_names: Sequence[str], shown: bool = False) -> str:
        """ "2 raccoon (0.97), 1 cat (0.41)": how many of each class, and the best score."""
        if shown and not len(self.scores):
            return "nothing was shown"
        return boxes.summary_of(self.scores, self.labels, class_names, 0.0 if shown else UNSURE)


@dataclass(frozen=True)
class PredictedMap:
    """A class for each pixel of the image as it is stored.

    Args:
        classes: (H, W) int class indices; -1 where nothing was looked at.
    """

    classes: np.ndarray

    @classmethod
    def of(cls, sample: Any) -> PredictedMap:
        """Of an mmseg data sample with `pred_sem_seg`."""
        return cls(sample.pred_sem_seg.data.squeeze(0).cpu().numpy())

    def where(self, valid: np.ndarray | None) -> PredictedMap:
        """With -1 where an image has no value."""
        return self if valid is None else PredictedMap(np.where(valid, self.classes, -1))

    def row(self, class_names: Sequence[str]) -> dict[str, Any]:
        """As JSON-able values: the classes that are there with their share of what was looked at, and a COCO RLE of
        each."""
        there = [int(label) for label in np.unique(self.classes) if label >= 0]
        looked = max(1, int((self.classes >= 0).sum()))
        shares = {class_names[label]: float((self.classes == label).sum() / looked) for label in there}
        masks = {class_names[label]: encode(self.classes == label) for label in there}
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])
        return {
            "shares": {name: round(share, 5) for name, share in ranked},
            "masks": masks,
            "summary": maps.summary_of(dict(ranked)),
        }


def without_unsure(row: dict[str, Any], least: float) -> dict[str, Any]:
    """A row of a detector without boxes that score less than `least`, from where on its summary counts too."""
    if not row["scores"]:
        return row
    names = list(dict.fromkeys(row["labels"]))
    labels = np.array([names.index(name) for name in row["labels"]])
    summary = boxes.summary_of(np.array(row["scores"]), labels, names, least)
    kept = [place for place, score in enumerate(row["scores"]) if score >= least]
    return {**chosen_boxes(row, kept), "summary": summary}


def chosen_boxes(row: dict[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """A row of a detector with some of its boxes."""
    lists = ("boxes", "scores", "labels", "masks")
    return {**row, **{key: [row[key][place] for place in places] for key in lists if key in row}}


def box_overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) -> (n, m) intersection over union."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared).clip(1e-9)


def deciding_first(metrics: dict[str, float], deciding: Sequence[str]) -> dict[str, float]:
    """The metrics with those that decide in front, where they are there."""
    return {name: metrics[name] for name in deciding if name in metrics} | metrics

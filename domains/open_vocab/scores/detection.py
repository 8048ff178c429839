"""Average precision of boxes or outlines, by pycocotools' own evaluation.

Microsoft COCO (2014, arXiv 1405.0312). Where images say which classes they were searched for, LVIS's rules hold (2019,
arXiv 1908.03195): a detection of a class that nobody looked for is not counted, and one that matches nothing is no
mistake where not every object of the class is annotated.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ....core.contracts import Item
from ....core.errors import CapabilityError, ConfigError
from ..data.boxes import annotated_boxes
from ..data.outlines import coco_masks, encode, outline_mask
from .intervals import average_precision_intervals
from .means import base_and_novel, known, mean_of_known, or_none

if TYPE_CHECKING:
    from typing_extensions import Self

SIZES = ("small", "medium", "large")
"""Under 32 x 32 pixels, under 96 x 96, and above."""
FREQUENCIES = {"r": "AP_rare", "c": "AP_common", "f": "AP_frequent"}
MOST_BOXES = 100


@dataclass(frozen=True)
class Truth:
    """The objects of one image.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels.
        labels: (n,) class indices.
        ignored: (n,) whether finding an object counts neither way, as COCO treats crowds; None for none.
        outlines: n polygons or encodings, or None entries; needed to score outlines.
        size: (width, height); needed with outlines.
        absent: classes that were looked for and are not there; None where all classes were looked for (COCO).
        partial: classes of which not every object is annotated.
    """

    boxes: Any
    labels: Any
    ignored: Any = None
    outlines: Sequence[Any] | None = None
    size: tuple[int, int] | None = None
    absent: Collection[int] | None = None
    partial: Collection[int] = ()


@dataclass(frozen=True)
class Detected:
    """What a detector found in one image.

    Args:
        boxes: (m, 4) x0, y0, x1, y1 in pixels.
        scores: (m,) the higher the surer.
        labels: (m,) class indices.
        outlines: m masks as (H, W) arrays or encodings; needed to score outlines.
    """

    boxes: Any
    scores: Any
    labels: Any
    outlines: Sequence[Any] | None = None

    def chosen(self, places: Sequence[int] | np.ndarray) -> Self:
        """Some of the boxes, by their places."""
        boxes, scores, labels = (np.asarray(each) for each in (self.boxes, self.scores, self.labels))
        outlines = None if self.outlines is None else [self.outlines[place] for place in places]
        boxes = boxes.reshape(-1, 4)[places]
        return replace(self, boxes=boxes, scores=scores[places], labels=labels[places], outlines=outlines)


@dataclass(frozen=True)
class DetectionScores:
    """What a report shows.

    Args:
        metrics: AP (mean over overlaps of 0.5 to 0.95 and over classes), AP50, AP75, AP_small, AP_medium, AP_large,
            AR (recall with `most` boxes per image); base_AP50, novel_AP50, harmonic_AP50 and the same of AP with novel
            classes; AP_rare, AP_common, AP_frequent with frequencies. In 0..1; what no object can tell is left out.
        per_class: class name -> {"AP", "AP50", "objects"}; AP and AP50 are None without an object.
        curves: class name -> {"recall": 101 values, "precision": 101 values}, at an overlap of 0.5.
        intervals: metric -> [low, high], where they were asked for.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)


def truth_of(item: Item) -> Truth:
    """What an item's annotation says."""
    boxes = annotated_boxes(item)
    facts = boxes.facts or {}
    federated = "absent" in facts or "partial" in facts
    return Truth(
        boxes=boxes.boxes,
        labels=boxes.labels,
        ignored=boxes.ignored,
        outlines=boxes.segments,
        size=boxes.size,
        absent=facts.get("absent", ()) if federated else None,
        partial=facts.get("partial", ()),
    )


def score_detections(
    truths: Sequence[Truth],
    detected: Sequence[Detected],
    class_names: Sequence[str],
    *,
    novel: Collection[str] = (),
    frequency: Sequence[str] | None = None,
    outlines: bool = False,
    most: int = MOST_BOXES,
    intervals: bool = False,
    groups: Sequence[str | None] | None = None,
) -> DetectionScores:
    """Scores over a set of images.

    Args:
        truths: of N images.
        detected: of the same images, in the same order.
        class_names: what labels index.
        novel: names of novel classes; the others are base classes.
        frequency: of each class "r", "c" or "f".
        outlines: compare outlines, not boxes; objects without one are ignored.
        most: boxes per image that count, the surest (COCO 100, LVIS 300).
        intervals: whether intervals are wanted.
        groups: a key per image of images that belong together, or None; intervals then draw groups.

    Raises:
        ConfigError: lists of different length, a label without a name, or no size where outlines are compared.
        CapabilityError: pycocotools is not installed.
    """
    check_labels(truths, detected, class_names)
    evaluation = evaluated(truths, detected, len(class_names), outlines, most)
    precision = evaluation.eval["precision"][:, :, :, :, -1]  # (T, R, K, A)
    recall = evaluation.eval["recall"][:, :, :, -1]  # (T, K, A)
    of_class = class_precisions(evaluation)  # (K,)
    at_50, at_75 = _mean(precision[0, ..., 0], 0), _mean(precision[5, ..., 0], 0)
    metrics = {
        "AP": mean_of_known(of_class),
        "AP50": mean_of_known(at_50),
        "AP75": mean_of_known(at_75),
        **{f"AP_{name}": mean_of_known(_mean(precision[..., n], (0, 1))) for n, name in enumerate(SIZES, start=1)},
        "AR": mean_of_known(_mean(recall[..., 0], 0)),
        **base_and_novel({"AP50": at_50, "AP": of_class}, class_names, novel),
    }
    often = _by_frequency(class_names, frequency)
    metrics |= {name: mean_of_known(of_class[np.isin(class_names, list(of))]) for name, of in often.items()}
    counts = _object_counts(truths, len(class_names))
    return DetectionScores(
        known(metrics),
        {
            name: {"AP": or_none(of_class[k]), "AP50": or_none(at_50[k]), "objects": int(counts[k])}
            for k, name in enumerate(class_names)
        },
        _curves(evaluation, precision, class_names),
        average_precision_intervals(evaluation, class_names, novel, groups, often, SIZES) if intervals else {},
    )


def check_labels(truths: Sequence[Truth], detected: Sequence[Detected], class_names: Sequence[str]) -> None:
    """Raise the ConfigError of lists of different length, or of a label without a name."""
    if len(truths) != len(detected):
        raise ConfigError(f"detections of {len(detected)} images for {len(truths)} images; give one entry per image")
    for what, entries in (("annotation", truths), ("detector", detected)):
        highest = max((int(np.max(entry.labels)) for entry in entries if len(entry.labels)), default=-1)
        if highest >= len(class_names):
            raise ConfigError(
                f"the {what} has class number {highest}, but there are {len(class_names)} names "
                f"({', '.join(list(class_names)[:10])}); give both the same classes"
            )


def _by_frequency(class_names: Sequence[str], frequency: Sequence[str] | None) -> dict[str, set[str]]:
    """Name of a mean -> classes that are as frequent; {} where frequencies are not known."""
    if frequency is None:
        return {}
    pairs = list(zip(class_names, frequency, strict=True))
    return {name: {one for one, often in pairs if often == key} for key, name in FREQUENCIES.items()}


def evaluated(truths: Sequence[Truth], detected: Sequence[Detected], num_classes: int, outlines: bool, most: int):
    """pycocotools' evaluation, accumulated, without what it prints.

    Raises:
        CapabilityError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError:
        raise CapabilityError(
            "detection scores need pycocotools; install it with: pip install 'vladapt[open-vocab]'"
        ) from None

    partial = {(number, label) for number, truth in enumerate(truths, start=1) for label in truth.partial}

    class Evaluation(COCOeval):
        def evaluateImg(self, imgId, catId, aRng, maxDet):
            seen = super().evaluateImg(imgId, catId, aRng, maxDet)
            if seen is not None and (imgId, catId) in partial:
                seen["dtIgnore"] = np.logical_or(seen["dtIgnore"], seen["dtMatches"] == 0)
            return seen

    with contextlib.redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        objects = (_true_objects(truths, outlines), _detected_objects(truths, detected, outlines))
        for side, entries in zip(sides, objects):
            side.dataset = {
                "images": [_image(number, truth) for number, truth in enumerate(truths, start=1)],
                "categories": [{"id": label} for label in range(num_classes)],
                "annotations": entries,
            }
            side.createIndex()
        evaluation = Evaluation(*sides, iouType="segm" if outlines else "bbox")
        evaluation.params.maxDets = [most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def class_precisions(evaluation) -> np.ndarray:
    """(K,) AP of each class over all overlaps, of objects of any size; NaN without an object."""
    return _mean(evaluation.eval["precision"][:, :, :, 0, -1], (0, 1))


def _image(number: int, truth: Truth) -> dict[str, Any]:
    width, height = truth.size or (0, 0)
    return {"id": number, "width": width, "height": height}


def _true_objects(truths: Sequence[Truth], outlines: bool) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, truth in enumerate(truths, start=1):
        drawn = truth.outlines or (None,) * len(truth.labels)
        ignored = (False,) * len(truth.labels) if truth.ignored is None else truth.ignored
        for box, label, left_out, outline in zip(truth.boxes, truth.labels, ignored, drawn, strict=True):
            entry = _entry(len(entries) + 1, number, box, label)
            entry["iscrowd"] = int(bool(left_out))
            if outline is not None and truth.size is None:
                raise ConfigError("outlines need the size of their image; give Truth its size")
            if outline is not None:
                encoded = encode(outline_mask(outline, truth.size))
                entry["area"] = float(coco_masks().area(encoded))
            if outlines:
                entry["segmentation"] = encoded if outline is not None else _box_encoding(box, truth.size)
                entry["iscrowd"] = int(bool(left_out) or outline is None)
            entries.append(entry)
    return entries


def _detected_objects(truths: Sequence[Truth], detected: Sequence[Detected], outlines: bool) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, (truth, seen) in enumerate(zip(truths, detected, strict=True), start=1):
        looked_for = None if truth.absent is None else {*map(int, truth.labels), *truth.absent}
        if outlines and len(seen.labels) and seen.outlines is None:
            raise ConfigError("the detector gives no outlines to compare; score its boxes")
        drawn = seen.outlines if outlines else (None,) * len(seen.labels)
        for box, score, label, outline in zip(seen.boxes, seen.scores, seen.labels, drawn or (), strict=True):
            if looked_for is not None and int(label) not in looked_for:
                continue
            entry = {**_entry(len(entries) + 1, number, box, label), "score": float(score)}
            if outlines:
                entry["segmentation"] = outline if isinstance(outline, dict) else encode(np.asarray(outline))
                entry["area"] = float(coco_masks().area(entry["segmentation"]))
            entries.append(entry)
    return entries


def _entry(id_: int, image: int, box: Any, label: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return {
        "id": id_,
        "image_id": image,
        "category_id": int(label),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
    }


def _box_encoding(box: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    if size is None:
        raise ConfigError("outlines need the size of their image; give Truth its size")
    x0, y0, x1, y1 = (float(value) for value in box)
    return encode(outline_mask([[x0, y0, x1, y0, x1, y1, x0, y1]], size))


def _object_counts(truths: Sequence[Truth], num_classes: int) -> np.ndarray:
    counts = np.zeros(num_classes, dtype=np.int64)
    for truth in truths:
        ignored = (False,) * len(truth.labels) if truth.ignored is None else truth.ignored
        for label, left_out in zip(truth.labels, ignored, strict=True):
            counts[int(label)] += not left_out
    return counts


def _curves(evaluation, precision: np.ndarray, class_names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    recalls = [float(value) for value in evaluation.params.recThrs]
    return {
        name: {"recall": recalls, "precision": [float(value) for value in precision[0, :, k, 0]]}
        for k, name in enumerate(class_names)
        if precision[0, 0, k, 0] > -1
    }


def _mean(values: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    """Mean over axes; NaN where pycocotools has -1, for no object."""
    return np.where(values > -1, values, np.nan).mean(axis=axes)

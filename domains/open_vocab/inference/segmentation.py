"""Segmentation by a model: scores on the test split, what the report shows of it, and rows of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....core.contracts import DomainData, Evaluation, Item, MaskScorer
from ....core.runs import PictureSection, TableSection
from ..data.items_file import to_uint8
from ..data.masks import IGNORED, image_valid_pixels
from ..drawing import draw_classes
from ..scores.intervals import image_counts, image_groups, mean_iou_intervals
from ..scores.segmentation import SegmentationScores, confusion, score_segmentation
from .joined import JoinedMap, picture_window, pictures_of
from .predictions import PredictedMap, deciding_first
from .running import as_in_data, known_names, outcomes

SHOWN = 6
SIDE = 420
BACKGROUND = "background"
DECIDING = ("base_mIoU", "novel_mIoU", "hIoU")
"""With novel classes these come first."""


def evaluate_segmentation(
    model, data: DomainData, progress: Callable[[int, int], None], further: MaskScorer | None = None
) -> Evaluation:
    """mIoU, pixel and mean accuracy on the test split, per class, on base and novel classes.

    Args:
        further: what is scored besides.
    """
    items = data.split("test")
    numbers = np.append(as_in_data(model, data.class_names), -1)  # -1 stays what it is: no class
    novel = [name for name in model.cfg.vladapt.novel if name in data.class_names]
    shown = set(range(0, len(items), max(1, len(items) // SHOWN))[:SHOWN])
    matrix, counts, seen, pictures = 0, [], [], []
    for place, (item, sample) in enumerate(outcomes(model, data, items, progress)):
        predicted, truth = numbers[PredictedMap.of(sample).classes], data.load_mask(item)
        of_image = confusion(truth, predicted, len(data.class_names))
        matrix = matrix + of_image
        counts.append(image_counts(of_image))
        seen.append(item)
        if further is not None:
            further.add(item, truth, predicted)
        if place in shown:
            pictures.append((_side_by_side(data, item, truth, predicted), item.id))
    scored = score_segmentation(matrix, data.class_names, novel=novel)
    sections = [
        _per_class(scored, novel),
        PictureSection("What it finds", pictures, "Left as marked, right as found.", side=2 * SIDE, columns=2),
    ]
    groups, number = image_groups(seen)
    intervals = mean_iou_intervals(np.stack(counts), data.class_names, novel, groups)
    notes = list(model.cfg.vladapt.get("notes") or [])
    metrics = deciding_first(scored.metrics, DECIDING)
    if further is not None:
        of_domain = further.evaluation()
        metrics, intervals = {**metrics, **of_domain.metrics}, {**intervals, **of_domain.intervals}
        sections, notes = [sections[0], *of_domain.sections, *sections[1:]], [*notes, *of_domain.notes]
    return Evaluation(metrics, sections, notes, intervals, number)


def predict_segmentation(model, data: DomainData, progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
    """One row per image: which classes, with what share of it, and a mask of each. Windows of a picture are joined, and
    the row has its size."""
    names, rows = known_names(model), []
    choose = getattr(model, "choose", lambda scores: scores.argmax(dim=0, keepdim=True))
    for name, size, samples in pictures_of(outcomes(model, data, data.items, progress)):
        if size is None:
            item, sample = next(samples)
            found = PredictedMap.of(sample).where(image_valid_pixels(item))
        else:
            joined = JoinedMap(size, choose)
            for item, sample in samples:
                joined.add(picture_window(item), sample.seg_logits.data, image_valid_pixels(item))
            found = PredictedMap(joined.finished())
        rows.append({"id": name, **({} if size is None else {"size": list(size)}), **found.row(names)})
    return rows


def _per_class(scored: SegmentationScores, novel: Sequence[str]) -> TableSection:
    header = ["Class", *(["Trained"] if novel else []), "IoU", "Accuracy", "Pixels"]
    rows = [
        [name, *(["no" if name in novel else "yes"] if novel else []), of["IoU"], of["accuracy"], of["pixels"]]
        for name, of in scored.per_class.items()
    ]
    note = "IoU is the overlap of found and marked pixels over their union; accuracy the share of marked pixels found."
    return TableSection("Class by class", header, rows, note)


def _side_by_side(data: DomainData, item: Item, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """What was marked and what was found, with one key below both."""
    pixels = to_uint8(data.load(item))
    hidden = [place for place, name in enumerate(data.class_names) if name == BACKGROUND]
    gap = max(2, pixels.shape[1] // 64)
    both = [np.pad(pixels, ((0, 0), (0, gap), (0, 0)), constant_values=255), pixels]
    classes = [np.pad(truth.astype(np.int64), ((0, 0), (0, gap)), constant_values=IGNORED), predicted]
    return draw_classes(np.concatenate(both, axis=1), np.concatenate(classes, axis=1), data.class_names, hidden)

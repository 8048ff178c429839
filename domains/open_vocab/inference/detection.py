"""Detection by a trained model: scores on the test split, what the report shows of it, and rows of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....core.contracts import DomainData, Evaluation, Item
from ....core.errors import DataError
from ....core.runs import CurveSection, PictureSection, TableSection
from ..data.boxes import annotated_boxes
from ..data.items_file import to_uint8
from ..data.outlines import decode
from ..data.remembered import spelled_as_in
from ..drawing import draw_boxes
from ..remembering.memory import Memory, old_and_new
from ..scores.confidence import Confidence, best_confidence
from ..scores.detection import DetectionScores, Truth, score_detections, truth_of
from ..scores.fixed import MOST_PER_CLASS, fixed_average_precision
from ..scores.intervals import image_groups
from ..scores.panoptic import PanopticCounts
from .joined import join_boxes, picture_window, pictures_of
from .predictions import OVERLAP, UNSURE, PredictedBoxes, box_overlaps, deciding_first
from .running import as_in_data, known_names, names_given_regions, outcomes, outlines_alone, shown_regions

SHOWN = 9
SHOWN_BOXES = "The model was shown the annotated boxes: scores are of its outlines alone."
MISTAKES = 6
MOST_CURVES = 12
FEW_NAMES = 2
MOST_VAL = 500
"""Images of val on which the score of a label is chosen."""
DECIDING = ("base_AP50", "novel_AP50", "harmonic_AP50")
"""With novel classes these come first."""


def evaluate_detection(
    model, data: DomainData, progress: Callable[[int, int], None], memory: Memory | None = None
) -> Evaluation:
    """AP and its kin on the test split, per class, on base and novel classes, on old and new ones; of boxes, and of
    outlines where both the model and the data have them, with panoptic quality where the model gives each pixel to one
    object; on data that say how frequent classes are LVIS's fixed AP.

    Args:
        memory: of the detector before, after a training that was to remember.
    """
    items = data.split("test")
    numbers = as_in_data(model, data.class_names)
    novel = [name for name in model.cfg.vladapt.novel if name in data.class_names]
    truths = [_sized(truth_of(item), data, item) for item in items]
    outlined = any(annotated_boxes(item).segments for item in items)
    predicted, segments = [], None
    for truth, (_, sample) in zip(truths, outcomes(model, data, items, progress), strict=True):
        predicted.append(_numbered(PredictedBoxes.of(sample), numbers))
        if outlined and "pred_panoptic_seg" in sample:
            segments = segments or PanopticCounts(data.class_names)
            segments.add_sample(truth, sample.pred_panoptic_seg.sem_seg[0].cpu().numpy(), numbers)
    groups, number = image_groups(items)
    scored = _scored(truths, predicted, data, novel, groups, outlines=False)
    old = spelled_as_in(data, model.cfg.vladapt.get("remember") or ())
    of_lvis = _fixed(model, truths, predicted, data) if data.frequency is not None else {}
    metrics, masks = {**scored.metrics, **of_lvis, **old_and_new(scored.per_class, old)}, None
    intervals = dict(scored.intervals)
    if outlined and all(boxes.outlines is not None for boxes in predicted):
        masks = _scored(truths, predicted, data, novel, groups, outlines=True)
        intervals |= {f"mask_{name}": bounds for name, bounds in masks.intervals.items()}
        metrics |= {f"mask_{name}": value for name, value in masks.metrics.items()}
    if shown_regions(model):
        return _of_outlines(data, items, predicted, masks, number)
    if segments is not None:
        metrics |= segments.scores(novel).metrics
    sections = [
        _per_class(scored, masks, novel),
        _curves(scored),
        _pictures(data, items, predicted),
        *_mistakes(data, items, truths, predicted),
    ]
    objects = {name: of["objects"] for name, of in scored.per_class.items()}
    notes = list(model.cfg.vladapt.get("notes") or [])
    evaluation = Evaluation(deciding_first(metrics, DECIDING), sections, notes, intervals, number, objects)
    return evaluation if memory is None else memory.told(evaluation, scored.per_class, data, predicted)


def _of_outlines(
    data: DomainData,
    items: Sequence[Item],
    predicted: list[PredictedBoxes],
    masks: DetectionScores | None,
    images: int | None,
) -> Evaluation:
    """Of a model that is shown the annotated boxes: the scores of its outlines alone.

    Raises:
        DataError: the data have no outlines.
    """
    if masks is None:
        raise DataError(f"{data.name}: its test images have no outlines to compare with; give data with outlines")
    metrics = {f"mask_{name}": value for name, value in masks.metrics.items()}
    intervals = {f"mask_{name}": bounds for name, bounds in masks.intervals.items()}
    objects = {name: of["objects"] for name, of in masks.per_class.items()}
    sections = [_per_class(masks, masks, ()), _pictures(data, items, predicted)]
    return Evaluation(metrics, sections, [SHOWN_BOXES], intervals, images, objects)


def predict_detection(model, data: DomainData, progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
    """One row per image: boxes, scores and names, the surest first; outlines where the model gives them. Windows of a
    picture are joined, and the row has its size."""
    names, apart, shown = known_names(model), rivals(model), outlines_alone(model)
    rows = []
    for name, size, samples in pictures_of(outcomes(model, data, data.items, progress)):
        found = [(item, PredictedBoxes.of(sample).without_rivals(apart)) for item, sample in samples]
        if size is None:
            rows.append({"id": name, **found[0][1].row(names, shown)})
            continue
        joined = join_boxes([(picture_window(item), boxes) for item, boxes in found], size, apart)
        rows.append({"id": name, "size": list(size), **joined.row(names)})
    return rows


def gives_outlines(model, data: DomainData) -> bool:
    """Whether a model outlines what it finds: one image tells."""
    return any(PredictedBoxes.of(sample).outlines is not None for _, sample in outcomes(model, data, data.items[:1]))


def confidence_on_val(model, data: DomainData, progress: Callable[[int, int], None]) -> Confidence | None:
    """The score with the best F1 on the val split, of at most `MOST_VAL` images drawn by their ids; None where no val
    image shows an object that the model finds."""
    if any(name not in data.class_names for name in known_names(model)) or names_given_regions(model):
        return None
    items = sorted(data.split("val"), key=lambda item: item.rank(0))[:MOST_VAL]
    if not any(annotated_boxes(item).labels for item in items):
        return None
    apart, names = rivals(model), known_names(model)
    numbers = np.array([data.class_names.index(name) for name in names])
    found = [PredictedBoxes.of(sample).without_rivals(apart) for _, sample in outcomes(model, data, items, progress)]
    found = [_numbered(boxes, numbers) for boxes in found]
    return best_confidence([truth_of(item) for item in items], found, len(data.class_names))


def rivals(model) -> np.ndarray:
    """(C, C) bool: which names of a model suppress each other where both are found on one thing.

    A detector that was trained on names together has learned what tells them apart, or that both may be there (a person
    and a shirt). Of other names it only knows that each is more alike the thing than the background is. What a user
    shows has no rivals.
    """
    names = known_names(model)
    if outlines_alone(model):
        return np.zeros((len(names), len(names)), dtype=bool)
    trained = np.array([name in model.cfg.vladapt.classes for name in names])
    which = model.cfg.vladapt.get("suppress", "untrained")
    apart = {"untrained": ~(trained[:, None] & trained), "all": True, "none": False}[which]
    return np.full((len(names), len(names)), apart) & ~np.eye(len(names), dtype=bool)


def believed_from(model) -> float:
    """Score from which on what a model finds is to be believed: as chosen on val, where there was one."""
    chosen = (model.cfg.vladapt.get("confidence") or {}).get("score")
    return float(chosen) if isinstance(chosen, (int, float)) and 0 <= chosen <= 1 else UNSURE


def notes_on_names(model) -> list[str]:
    """A sentence where a model is asked for names that it was trained on too few others to tell from anything."""
    if model.cfg.vladapt.get("source"):  # it began as one that knows many names
        return []
    trained = list(model.cfg.vladapt.classes)
    if len(trained) > FEW_NAMES or not (asked := [name for name in known_names(model) if name not in trained]):
        return []
    few, them = " and ".join(trained), "it" if len(trained) == 1 else "them"
    return [
        f"trained on {few} alone, the model has learned to tell {them} from background but not from other things: "
        f"scores of {', '.join(asked)} say little"
    ]


def _numbered(predicted: PredictedBoxes, numbers: np.ndarray) -> PredictedBoxes:
    return replace(predicted, labels=numbers[predicted.labels])


def _scored(
    truths, predicted: list[PredictedBoxes], data: DomainData, novel, groups, outlines: bool
) -> DetectionScores:
    options = {"novel": novel, "frequency": data.frequency, "outlines": outlines}
    return score_detections(truths, predicted, data.class_names, **options, intervals=True, groups=groups)


def _fixed(model, truths: Sequence[Truth], predicted: list[PredictedBoxes], data: DomainData) -> dict[str, float]:
    most = model.cfg.vladapt.get("dets_per_class", MOST_PER_CLASS)
    return fixed_average_precision(truths, predicted, data.class_names, frequency=data.frequency, most=most)


def _sized(truth: Truth, data: DomainData, item: Item) -> Truth:
    """With the image's size, without which outlines mean nothing; some readers need not know it."""
    if truth.size or not truth.outlines:
        return truth
    height, width = data.load(item).shape[:2]
    return replace(truth, size=(width, height))


def _per_class(scored: DetectionScores, masks: DetectionScores | None, novel: Sequence[str]) -> TableSection:
    header = ["Class", *(["Trained"] if novel else []), "AP", "AP50", *(["Mask AP"] if masks else []), "Objects"]
    rows = [
        [
            name,
            *(["no" if name in novel else "yes"] if novel else []),
            of["AP"],
            of["AP50"],
            *([masks.per_class[name]["AP"]] if masks else []),
            of["objects"],
        ]
        for name, of in scored.per_class.items()
    ]
    return TableSection("Class by class", header, rows, "AP is the mean over overlaps of 50 to 95 %, AP50 at 50 %.")


def _curves(scored: DetectionScores) -> CurveSection:
    ranked = sorted(scored.curves, key=lambda name: -(scored.per_class[name]["objects"] or 0))[:MOST_CURVES]
    curves = {name: (scored.curves[name]["recall"], scored.curves[name]["precision"]) for name in ranked}
    more = len(scored.curves) - len(ranked)
    note = f" The {len(ranked)} classes with the most objects; {more} more are in the table." if more else ""
    return CurveSection("Precision over recall", curves, "recall", "precision", f"At an overlap of 50 %.{note}")


def _pictures(data: DomainData, items: Sequence[Item], predicted: list[PredictedBoxes]) -> PictureSection:
    step = max(1, len(items) // SHOWN)
    chosen = list(range(0, len(items), step))[:SHOWN]
    pictures = [
        (_drawn(data, items[i], predicted[i]), f"{items[i].id}: {predicted[i].summary(data.class_names)}")
        for i in chosen
    ]
    which = "Test images" if step == 1 else f"One test image in {step}"
    note = f"{which}, with boxes that score {UNSURE} or more; in brackets the best score."
    return PictureSection("What it finds", pictures, note)


def _drawn(data: DomainData, item: Item, predicted: PredictedBoxes) -> np.ndarray:
    sure = np.flatnonzero(predicted.scores >= UNSURE)[::-1]
    texts = [f"{data.class_names[predicted.labels[i]]} {predicted.scores[i]:.2f}" for i in sure]
    masks = None if predicted.outlines is None else [decode(predicted.outlines[i]) for i in sure]
    return draw_boxes(to_uint8(data.load(item)), predicted.boxes[sure], predicted.labels[sure], texts, masks)


def _mistakes(
    data: DomainData, items: Sequence[Item], truths: Sequence[Truth], predicted: list[PredictedBoxes]
) -> list[PictureSection]:
    """The surest boxes that meet no object of their class."""
    wrong = [
        (float(boxes.scores[place]), image, place)
        for image, (truth, boxes) in enumerate(zip(truths, predicted, strict=True))
        for place in _false(truth, boxes)
    ]
    wrong.sort(reverse=True)
    pictures = []
    for score, image, place in wrong[:MISTAKES]:
        boxes, name = predicted[image], data.class_names[predicted[image].labels[place]]
        one = replace(boxes, outlines=None).chosen([place])
        pictures.append((_drawn(data, items[image], one), f"{items[image].id}: {name}, {score:.2f}"))
    if not pictures:
        return []
    note = "Look at these first: they are often objects that nobody marked, or things that the model has not learned."
    return [PictureSection("Its most confident mistakes", pictures, note)]


def _false(truth: Truth, predicted: PredictedBoxes) -> list[int]:
    """Sure boxes that overlap no object of their class by half."""
    objects, labels = np.asarray(truth.boxes, dtype=float).reshape(-1, 4), np.asarray(truth.labels, dtype=int)
    overlap = box_overlaps(predicted.boxes, objects) >= OVERLAP  # (n, m)
    right = (overlap & (predicted.labels[:, None] == labels[None])).any(axis=1)
    return [int(place) for place in np.flatnonzero(~right & (predicted.scores >= UNSURE))]

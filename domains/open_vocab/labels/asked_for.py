"""Labels as `predict --as coco,yolo,voc` asks for them: of which score, with outlines, beside those of people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....core.contracts import DomainData, Use
from ....core.errors import ConfigError, did_you_mean
from ....core.runs import plural
from ..inference.predictions import UNSURE
from ..inference.running import known_names
from .label_set import LabelSet, labels_of_rows


def check_label_wishes(use: Use) -> None:
    """Raise the ConfigError of what is asked of labels where none, or none that can have it, are written."""
    kinds = [kind for kind in use.outputs if kind.made_of == kind.BOXES]
    for flag in ("masks", "own_data"):
        if getattr(use, flag) and not kinds:
            raise ConfigError(f"--{flag.replace('_', '-')}: is of labels; add --as coco, yolo or voc, or omit it")
    if use.masks and not any(kind.outlines for kind in kinds):
        raise ConfigError(f"--masks: files of {kinds[0].name} hold boxes alone; add --as coco or yolo, or omit it")
    if use.tile is not None and use.tile < 1:
        raise ConfigError(f"--tile {use.tile}: give the side of a window in pixels")


def check_annotated_names(model: Any, own: DomainData) -> None:
    """Raise the ConfigError of names that were not annotated in the run's own images, where a training would take them
    for background."""
    if unknown := next((name for name in known_names(model) if name not in own.class_names), None):
        raise ConfigError(
            f"--own-data: the run's own images were not searched for '{unknown}', so they would teach that it is not "
            f"there; omit --own-data ({did_you_mean(unknown, own.class_names)})"
        )


def labels_of_detector(
    model: Any, rows: Sequence[Mapping[str, Any]], data: DomainData, use: Use, own: DomainData | None
) -> LabelSet:
    """Boxes from a score on: the one that is given, else the one chosen on val, else `UNSURE`."""
    chosen = model.cfg.vladapt.get("confidence") or {}
    least = chosen.get("score", UNSURE) if use.threshold is None else use.threshold
    if use.threshold is not None:
        why = "--threshold"
    elif chosen:
        why = f"the best F1 on {plural(chosen['images'], 'val image')}, {chosen['f1']:.2f}; --threshold gives another"
    else:
        why = "no score was chosen on val images; --threshold gives another"
    labels = _labels(model, rows, data, use, own, least)
    labels.notes.insert(0, f"labels: boxes that score {least:g} or more ({why})")
    return labels


def labels_of_segmentor(
    model: Any, rows: Sequence[Mapping[str, Any]], data: DomainData, use: Use, own: DomainData | None
) -> LabelSet:
    """Each class of an image as one object."""
    return _labels(model, rows, data, use, own)


def _labels(model, rows, data, use: Use, own: DomainData | None, least: float = 0.0) -> LabelSet:
    labels = labels_of_rows(rows, data, known_names(model), least=least, masks=bool(use.masks), own=own)
    made = [image for image in labels.images if image.unreviewed]
    objects = plural(sum(len(image.boxes) for image in made), "object")
    empty = sum(not image.boxes for image in made)
    labels.notes.append(
        f"{plural(len(made), 'image')} with {objects} that the model found ({empty} without one) and nobody has "
        f"reviewed: fit trains on them, and never tests. Review them: vladapt review {use.out}"
    )
    if own is not None:
        doubled = len(rows) + len(own.items) - len(labels.images)
        ours = f", {doubled} of which were among the new ones" if doubled else ""
        labels.notes.append(f"{len(own.items)} images with the labels of people{ours}, in their splits")
        if unasked := ", ".join(name for name in own.class_names if name not in known_names(model)):
            labels.notes.append(
                f"the model was not asked for {unasked}: a fit takes them to be absent from its images until "
                "the review adds them"
            )
    return labels

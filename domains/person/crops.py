"""People cut from photographs by what a detector found, in COCO's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...core.contracts import Detection, DomainData, Item
from ...core.data import IMAGE, read_detections
from ...core.errors import DataError

PEOPLE = ("person", "people", "pedestrian", "human", "man", "woman", "child", "rider")
"""Names of classes that are people, where a detector names any of them."""


def cut_people(data: DomainData, crops: str | Path, *, one_each: bool, max_pixels: int) -> DomainData:
    """The people in photographs, a picture each.

    Args:
        data: photographs, whose file each item is as a whole.
        crops: what a detector wrote: a list of results, or a whole COCO file (`core/data/detections.py`).
        one_each: the set says who is in a photograph, so that there must be one person in it; one with several, or
            none, is left out and listed. Else each person is an item, "NAME#person2" the second.
        max_pixels: of a photograph.

    Raises:
        DataError: the file is none, names none of the photographs, or a box lies outside its picture.
    """
    path = Path(crops)
    boxes = read_detections(path, [item.id for item in data.items])
    named = any(_is_person(box) for found in boxes.values() for box in found)
    items: list[Item] = []
    skipped = list(data.skipped)
    for item in data.items:
        found = [box for box in boxes.get(item.id, ()) if _is_person(box) or not named]
        if len(found) != 1 and one_each:
            many = (
                f"{len(found)} people in it, and the set does not say which one is meant" if found else "nobody in it"
            )
            skipped.append((item.id, f"{many}, by {path.name}"))
        elif found:
            items += _cut(item, found, path, one_each, max_pixels)
    if not items:
        raise DataError(
            f"{path}: has no box of a person in any of the {len(data.items)} photographs; give boxes of people in them"
        )
    note = f"People cut from photographs by {path.name}: {len(items)}."
    return replace(data, items=items, skipped=skipped, notes=[*data.notes, note])


def _cut(item: Item, boxes: Sequence[Detection], path: Path, one_each: bool, max_pixels: int) -> list[Item]:
    width, height = IMAGE.size_of(item.source, {"max_pixels": max_pixels})
    cut = []
    for number, box in enumerate(boxes, start=1):
        x0, y0, x1, y1 = box.box
        inside = [max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)]
        if inside[2] - inside[0] < 1 or inside[3] - inside[1] < 1:
            where = ", ".join(f"{side:g}" for side in (x0, y0, x1 - x0, y1 - y0))
            raise DataError(
                f"{path}: the box [{where}] of {item.id} lies outside the picture of {width} x {height} pixels; give "
                "boxes of the picture at this size"
            )
        id_ = item.id if one_each else f"{item.id}#person{number}"
        cut.append(item.with_(id=id_, decode={**item.decode, "box": inside}, group=item.group or item.id))
    return cut


def _is_person(box: Detection) -> bool:
    return box.label.lower() in PEOPLE

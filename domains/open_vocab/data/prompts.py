"""What a user shows on images, for models that outline it: boxes and points, each with a name, in a JSON file.

Two forms: {image: [{"box": [x0, y0, x1, y1], "points": [[x, y], ...], "labels": [1, 0, ...], "name": "crack",
"positive": true}, ...]}, where each object has a box, points, or both; or boxes as COCO has them, as in the
predictions.json of another detector. Pixels are those of the image as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....core.contracts import Boxes, DomainData, Item
from ....core.data import CocoFile
from ....core.errors import DataError, did_you_mean
from ....core.runtime import read_json

PROMPTS = "prompts"
"""Key of `Boxes.facts` under which points lie beside the boxes."""
UNNAMED = "object"
KEYS = frozenset({"box", "points", "labels", "name", "positive"})
FORM = 'write {"image.jpg": [{"box": [x0, y0, x1, y1]}, {"points": [[x, y]], "labels": [1]}]}'
OBJECT = 'write {"box": [x0, y0, x1, y1]} or {"points": [[x, y]], "labels": [1]}'
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class ShownObject:
    """One object that is shown.

    Args:
        box: x0, y0, x1, y1, or None.
        points: (x, y) each.
        positive: of each point 1 on the object, 0 beside it.
        name: what it is called.
        example: for models that find more of its kind: whether it is one of them, or what is not meant.
    """

    box: Corners | None
    points: tuple[tuple[float, float], ...] = ()
    positive: tuple[int, ...] = ()
    name: str = UNNAMED
    example: bool = True

    @property
    def around(self) -> Corners:
        """The box, or the smallest around the points."""
        if self.box is not None:
            return self.box
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True)
class Prompts:
    """A file of them.

    Args:
        path: of the file.
        by_image: image, as the file names it -> what is shown on it.
    """

    path: Path
    by_image: Mapping[str, Sequence[ShownObject]] = field(repr=False)

    @property
    def names(self) -> list[str]:
        """Of all objects, in the order of the file."""
        return list(dict.fromkeys(shown.name for listed in self.by_image.values() for shown in listed))

    def on(self, data: DomainData) -> DomainData:
        """The images with what is shown on each of them, as boxes with `facts`; their classes are `names`.

        Raises:
            DataError: an image of the file is none of them, or could be several.
        """
        names = self.names
        targets = {}
        for image, listed in self.by_image.items():
            targets[self._item(image, data.items).id] = boxes_of(listed, names)
        items = [item.with_(target=targets.get(item.id, boxes_of((), ()))) for item in data.items]
        changed = data.with_items(items)
        changed.class_names = tuple(names)
        return changed

    def _item(self, image: str, items: Sequence[Item]) -> Item:
        for alike in (lambda item: item.id == image, lambda item: item.source.name == Path(image).name):
            chosen = [item for item in items if alike(item)]
            if len(chosen) == 1:
                return chosen[0]
            if chosen:
                raise DataError(f"{self.path}: '{image}' may be {len(chosen)} of the images; name it by its path")
        nearest = did_you_mean(image, [item.id for item in items])
        raise DataError(f"{self.path}: '{image}' is none of the images; {nearest}")


def boxes_of(listed: Sequence[ShownObject], names: Sequence[str]) -> Boxes:
    """What is shown on an image as boxes with `facts`, numbered by their names."""
    return Boxes(
        boxes=tuple(shown.around for shown in listed),
        labels=tuple(names.index(shown.name) for shown in listed),
        facts={PROMPTS: [_as_facts(shown) for shown in listed]},
    )


def shown_objects(listed: Sequence[Any], where: str) -> list[ShownObject]:
    """What is shown on one image, from its list in a file.

    Raises:
        DataError: an entry cannot be used.
    """
    return [_shown(entry, f"{where}, object {number}") for number, entry in enumerate(listed, start=1)]


def read_prompts(path: str | Path) -> Prompts:
    """Read a file of prompts.

    Raises:
        DataError: it cannot be read, holds nothing, or an entry of it cannot be used.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise DataError(f"{path}: prompts come from a .json file; {FORM}")
    content = read_json(path, FORM)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object; {FORM}")
    by_image = _of_coco(path, content) if "annotations" in content else _of_images(path, content)
    if not any(by_image.values()):
        raise DataError(f"{path}: shows nothing on any image; {FORM}")
    return Prompts(path, by_image)


def _of_images(path: Path, content: Mapping[str, Any]) -> dict[str, list[ShownObject]]:
    by_image = {}
    for image, listed in content.items():
        if not isinstance(listed, list):
            raise DataError(f"{path}: '{image}' has no list of objects; {FORM}")
        by_image[image] = shown_objects(listed, f"{path}: '{image}'")
    return by_image


def _shown(entry: Any, where: str) -> ShownObject:
    if not isinstance(entry, dict) or not entry.keys() <= KEYS:
        raise DataError(f"{where}: not an object of {', '.join(sorted(KEYS))}; {OBJECT}")
    box = None if entry.get("box") is None else _box(entry["box"], where)
    points = tuple((x, y) for x, y in (_numbers(p, 2, f"{where}: a point") for p in _list(entry, "points", where)))
    positive = tuple(_list(entry, "labels", where)) or (1,) * len(points)
    if len(positive) != len(points) or any(label not in (0, 1) for label in positive):
        raise DataError(f"{where}: labels are not one per point, 1 on the object or 0 beside it; correct them")
    if box is None and not points:
        raise DataError(f"{where}: neither a box nor points; give one of them")
    name = " ".join(str(entry.get("name") or UNNAMED).split())
    return ShownObject(box, points, tuple(map(int, positive)), name, bool(entry.get("positive", True)))


def _of_coco(path: Path, content: dict[str, Any]) -> dict[str, list[ShownObject]]:
    coco = CocoFile(path, path.parent, content)
    if not coco.is_shape_of(content):
        raise DataError(f"{path}: not boxes as COCO has them; correct it, or {FORM}")
    files = {number: coco.file_name(image) for number, image in coco.images().items()}
    listed = coco.categories() if content.get("categories") else {}
    names = {UNNAMED: UNNAMED, **{number: category.name for number, category in listed.items()}}
    by_image: dict[str, list[ShownObject]] = {name: [] for name in files.values()}
    for number, annotation in coco.annotations():
        category = annotation.get("category_id")
        listed_id = category if isinstance(category, Hashable) and category in names else UNNAMED
        box, image = coco.box(number, {**annotation, "category_id": listed_id}, names)
        if image not in files:
            raise coco.unusable(number, f"no image {image!r}")
        by_image[files[image]].append(ShownObject(_box(box.corners, f"{path}: annotation {number}"), name=box.name))
    return by_image


def _box(value: Any, where: str) -> Corners:
    box = _numbers(value, 4, f"{where}: its box")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise DataError(f"{where}: its box has no area; give x0, y0, x1, y1")
    return box[0], box[1], box[2], box[3]


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise DataError(f"{what} is not {count} numbers; correct it")
    if not all(isinstance(each, (int, float)) and math.isfinite(each) for each in value):
        raise DataError(f"{what} is not {count} numbers; correct it")
    return tuple(map(float, value))


def _list(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key) or []
    if not isinstance(value, list):
        raise DataError(f"{where}: {key} is no list; {OBJECT}")
    return value


def _as_facts(shown: ShownObject) -> dict[str, Any]:
    """As a sample carries it to a model."""
    points = [list(point) for point in shown.points]
    return {"box": shown.box is not None, "points": points, "positive": list(shown.positive), "example": shown.example}

"""A folder of labels as `predict --as coco,yolo,voc` wrote it, read whole, with who made each box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ....core.contracts import Item
from ....core.data import IMAGE, Box, ListedImage, VocSet
from ....core.errors import DataError
from ..data.boxes import BoxSet
from ..data.coco_boxes import read_coco_boxes
from ..data.yolo import read_yolo
from .label_set import IMAGES, LabelSet

FILES = {"coco": "instances*.json", "voc": "Annotations", "yolo": "data.yaml"}
"""Kind -> what tells that a folder holds it; the first says most."""


def kinds_in(folder: Path) -> list[str]:
    """The kinds of labels that a folder holds.

    Raises:
        DataError: none.
    """
    kinds = [kind for kind, pattern in FILES.items() if folder.is_dir() and any(folder.glob(pattern))]
    if not kinds:
        cure = f"vladapt predict RUN IMAGES --out {folder} --as coco"
        raise DataError(f"{folder}: holds no labels; write some: {cure}")
    return kinds


def read_labels(folder: Path) -> LabelSet:
    """The labels of a folder; of several kinds those of COCO, else VOC, else YOLO.

    Raises:
        DataError: no labels there, labels that no model made, or as of the reader.
    """
    kinds = kinds_in(folder)
    readers: dict[str, Callable[[Path], BoxSet]] = {"coco": read_coco_boxes, "voc": _read_voc, "yolo": read_yolo}
    read = readers[kinds[0]](folder)
    pictures, images = {}, []
    for image in read.images:
        name = image.name.removeprefix(f"{IMAGES}/")
        path = folder / IMAGES / name
        if "/" in name or not path.is_file():
            raise DataError(f"{folder}: its image {image.name} is not in {IMAGES}/; put it there")
        pictures[name] = Item(id=name, source=path)
        images.append(_in_pixels(replace(image, name=name), path))
    if not any(image.made_by for image in images):
        raise DataError(f"{folder}: its {kinds[0]} labels do not say who made them, so there is nothing to review")
    return LabelSet(tuple(read.class_names), images, pictures)


def _read_voc(folder: Path) -> BoxSet:
    voc = VocSet.read(folder, (IMAGE,))
    return BoxSet(voc.images, voc.class_names, voc.folder)


def _in_pixels(image: ListedImage, path: Path) -> ListedImage:
    size = image.size or IMAGE.size_of(path, {})
    if not image.relative:
        return replace(image, size=size)
    return replace(image, boxes=tuple(_box_in_pixels(box, size) for box in image.boxes), size=size, relative=False)


def _box_in_pixels(box: Box, size: tuple[int, int]) -> Box:
    corners = tuple(value * size[place % 2] for place, value in enumerate(box.corners))
    outline = box.outline and [[value * size[place % 2] for place, value in enumerate(part)] for part in box.outline]
    return replace(box, corners=corners, outline=outline)

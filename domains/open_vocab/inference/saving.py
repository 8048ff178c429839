"""Predictions as files: pictures to look at, and COCO JSON or mask PNGs for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts import DomainData, Item, LabelMap
from ....core.errors import DataError
from ....core.runtime import file_stem, json_text, replacing, write_whole
from ..data.items_file import to_uint8
from ..data.masks import MOST_CLASSES
from ..data.outlines import coco_masks, decode
from ..drawing import draw_boxes, draw_classes, palette
from .joined import whole_pictures
from .predictions import UNSURE

COCO_FILE = "predictions.json"
BACKGROUND = "background"
PICTURES, MASKS, CLASSES = "pictures", "masks", "classes.json"


def save_boxes(
    rows: list[dict[str, Any]],
    data: DomainData,
    class_names: Sequence[str],
    folder: Path,
    drawn_from: float | None = None,
) -> list[Path]:
    """One picture per image with its boxes from a score on, and all of them as one COCO file, with scores.

    Args:
        drawn_from: the score; None for `UNSURE`.

    Returns:
        The files.
    """
    drawn_from = UNSURE if drawn_from is None else drawn_from
    by_id = whole_pictures(data)
    files, images, annotations = [], [], []
    for number, (row, name) in enumerate(zip(rows, file_names([row["id"] for row in rows])), start=1):
        pixels = _seen(data, by_id[row["id"]], row)
        if pixels is not None:
            picture = Image.fromarray(_picture_of_boxes(pixels, row, class_names, drawn_from))
            files.append(_saved(picture, folder / PICTURES / f"{name}.png"))
        height, width = row.get("size") or pixels.shape[:2]
        images.append({"id": number, "file_name": row["id"], "width": width, "height": height})
        annotations += [_annotation(number, row, place, class_names) for place in range(len(row["boxes"]))]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    categories = [{"id": place, "name": name} for place, name in enumerate(class_names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_whole(folder / COCO_FILE, json_text(content, ensure_ascii=True))
    return [*files, folder / COCO_FILE]


def save_maps(rows: list[dict[str, Any]], data: DomainData, class_names: Sequence[str], folder: Path) -> list[Path]:
    """One picture per image in the colours of its classes, a PNG of class indices with the same colours as its palette
    (of 16 bits and grey where there are more than 255 classes), and the names of the indices.

    Returns:
        The files.
    """
    by_id = whole_pictures(data)
    place = {name: index for index, name in enumerate(class_names)}
    deep, nothing = (np.uint8, 255) if len(class_names) <= MOST_CLASSES else (np.uint16, 65535)
    files = []
    for row, name in zip(rows, file_names([row["id"] for row in rows])):
        pixels = _seen(data, by_id[row["id"]], row)
        classes = np.full(row.get("size") or pixels.shape[:2], nothing, dtype=deep)
        for named, outline in row["masks"].items():
            classes[decode(outline)] = place[named]
        if pixels is not None:
            seen = _small(classes, pixels.shape[:2])
            picture = Image.fromarray(draw_classes(pixels, seen, class_names))
            files.append(_saved(picture, folder / PICTURES / f"{name}.png"))
        files.append(_saved_mask(classes, len(class_names), folder / MASKS / f"{name}.png"))
    write_whole(folder / CLASSES, json.dumps(list(class_names), ensure_ascii=False, indent=1))
    return [*files, folder / CLASSES]


def labels_of(row: Mapping[str, Any], class_names: Sequence[str]) -> LabelMap:
    """The masks of a row as one map: each class by its place among the names, from 1; 0 is the class "background", and
    what was not looked at."""
    shown = {name: place for place, name in enumerate(class_names, start=1) if name != BACKGROUND}
    outlines = {name: decode(outline) for name, outline in row["masks"].items()}
    values = np.zeros(next(iter(outlines.values())).shape if outlines else row["size"], dtype=np.uint16)
    for name in outlines.keys() & shown.keys():
        values[outlines[name]] = shown[name]
    return LabelMap(values, {name: (place,) for name, place in shown.items()})


def file_names(ids: Sequence[str]) -> list[str]:
    """A file name without ending for each image, no two alike whatever the case: what all lie in is left out, further
    folders become "_", and a name that is taken gets a number."""
    taken: set[str] = set()
    parents = [Path(id_).parent.parts for id_ in ids]
    shared = sum(1 for _ in takewhile(lambda alike: len(set(alike)) == 1, zip(*parents)))
    names = []
    for id_ in ids:
        parts = (*Path(id_).parent.parts[shared:], Path(id_).stem)
        joined = "_".join(part for part in parts if part.strip("/.")) or "image"
        stem = file_stem(joined)
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _picture_of_boxes(
    pixels: np.ndarray, row: dict[str, Any], class_names: Sequence[str], drawn_from: float
) -> np.ndarray:
    place = {name: index for index, name in enumerate(class_names)}
    sure = [i for i, score in enumerate(row["scores"]) if score >= drawn_from][::-1]  # the surest on top
    texts = [f"{row['labels'][i]} {row['scores'][i]:.2f}" for i in sure]
    masks = [_small(decode(row["masks"][i]), pixels.shape[:2]) for i in sure] if "masks" in row else None
    boxes = np.array([row["boxes"][i] for i in sure]).reshape(-1, 4)
    if "size" in row:  # the picture may be a smaller copy
        boxes = boxes * np.tile([pixels.shape[1] / row["size"][1], pixels.shape[0] / row["size"][0]], 2)
    return draw_boxes(pixels, boxes, [place[row["labels"][i]] for i in sure], texts, masks)


def _seen(data: DomainData, item: Item, row: dict[str, Any]) -> np.ndarray | None:
    """(H, W, 3) uint8 of a picture; None of one that was seen by windows and is too large to be shown as a whole."""
    try:
        return to_uint8(data.load(item))
    except DataError:
        if "size" not in row:
            raise
        return None


def _small(classes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) at the size of a smaller copy of the picture, by the nearest pixel."""
    if classes.shape == tuple(shape):
        return classes
    rows, columns = (np.arange(n) * side // n for n, side in zip(shape, classes.shape))
    return classes[rows][:, columns]


def _annotation(image: int, row: dict[str, Any], place: int, class_names: Sequence[str]) -> dict[str, Any]:
    x0, y0, x1, y1 = row["boxes"][place]
    annotation = {
        "image_id": image,
        "category_id": list(class_names).index(row["labels"][place]) + 1,
        "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
        "area": round((x1 - x0) * (y1 - y0), 2),
        "iscrowd": 0,
        "score": row["scores"][place],
    }
    if "masks" in row:
        outline = row["masks"][place]
        annotation |= {"segmentation": outline, "area": float(coco_masks().area(outline))}
    return annotation


def _saved_mask(classes: np.ndarray, count: int, path: Path) -> Path:
    mask = Image.fromarray(classes)
    if classes.dtype == np.uint8:
        mask.putpalette(palette(count))
    return _saved(mask, path)


def _saved(picture: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        picture.save(partial, "PNG")
    return path

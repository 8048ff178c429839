"""COCO JSON: the boxes of `images`, `annotations` and `categories`, as a classification set of crops."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.items import DomainData
from ..errors import DataError, shortened
from ..runtime.reading import read_json
from .class_folders import SPLIT_FOLDERS
from .crops import MIN_SIDE, BoxedImage, crops_of, image_folders
from .files import Format
from .images import IMAGE

PATTERNS = ("instances*.json", "_annotations.coco.json", "annotations/instances*.json", "*/_annotations.coco.json")


def read_coco_crops(path: str | Path, formats: Sequence[Format] = (IMAGE,), min_side: float = MIN_SIDE) -> DomainData:
    """One item per box, in the order of category ids. Crowd boxes are left out.

    Args:
        path: a COCO JSON file, or a folder with `instances*.json` (also in `annotations/`), or with Roboflow's
            `train/_annotations.coco.json` and its like. A file name or folder with train, val or test in it gives
            the split. Images are sought as listed, in `images/`, `JPEGImages/` and a folder named as the file ends.
        formats: what counts as an image.
        min_side: shortest side of a box in pixels.

    Raises:
        DataError: no such file, it is malformed, a path leaves the folder, or fewer than two classes have boxes.
    """
    images, class_names, notes = coco_images(Path(path))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return crops_of(images, class_names, folder, formats, min_side, notes)


def coco_images(path: Path) -> tuple[list[BoxedImage], list[str], list[str]]:
    """Images that have boxes, the names of the classes, and sentences for the user; path and errors as for
    `read_coco_crops`, but that any number of classes will do."""
    files = find_coco_files(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no COCO file in it; name it instances*.json")
    folder = path if path.is_dir() else path.parent
    if len(files) > 1 and not all(split_of(file, folder) for file in files):
        listed = ", ".join(file.name for file in files)
        raise DataError(f"{path}: holds {listed}, which are not train, val and test files; give one of them")
    names: dict[int, str] = {}
    images: list[BoxedImage] = []
    crowd = 0
    for file in files:
        content = read_coco_file(file)
        names.update(_categories(file, content))
        more, dropped = _boxed_images(file, content, folder, split_of(file, folder))
        images += more
        crowd += dropped
    class_names = list(dict.fromkeys(names[number] for number in sorted(names, key=by_kind_of_id)))
    return images, class_names, [f"Crowd boxes, left out: {crowd}."] if crowd else []


def find_coco_files(folder: Path) -> list[Path]:
    """COCO files of a folder: those of the first pattern that finds any."""
    return next((files for pattern in PATTERNS if (files := sorted(folder.glob(pattern)))), [])


def is_coco(content: Any) -> bool:
    """Whether parsed JSON has the shape of a COCO file with boxes."""
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("images", "annotations"))


def split_of(file: Path, folder: Path) -> str:
    """The split that a file's name or the folder above it tells ("instances_train2017.json"), or ""."""
    words = file.stem.lower().rstrip("0123456789").split("_")
    if file.parent != folder:
        words.append(file.parent.name.lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), "")


def image_roots(file: Path, folder: Path) -> tuple[Path, ...]:
    """Where the images that a COCO file lists may lie, all inside the set's folder."""
    named_as_file = file.stem.rsplit("_", 1)[-1]  # instances_train2017.json: train2017/
    return tuple(dict.fromkeys((*image_folders(folder), *image_folders(file.parent), folder / named_as_file)))


def read_coco_file(file: Path) -> dict[str, Any]:
    """The content of a COCO file.

    Raises:
        DataError: it cannot be read, is not JSON (cut short), or has another shape.
    """
    content = read_json(file)
    if not is_coco(content):
        raise DataError(f"{file}: has no 'images' and 'annotations' lists; give a COCO file with boxes")
    return content


def usable_id(value: Any) -> int | float | str:
    """The id of an image, an annotation or a category.

    Raises:
        TypeError: it is null, or no number and no text.
    """
    if isinstance(value, (int, float, str)) and not isinstance(value, bool) and value == value:
        return value
    raise TypeError(f"{shortened(repr(value), 20)} is not an id")


def what_lacks(error: Exception) -> str:
    """Why an entry cannot be used, of what reading it raised."""
    return f"no {shortened(error)}" if isinstance(error, KeyError) else shortened(error)


def by_kind_of_id(value: int | float | str) -> tuple[bool, int | float | str]:
    """A key to sort ids by, numbers before texts."""
    return isinstance(value, str), value


def corners_of_bbox(bbox: Any) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a COCO box [x, y, width, height].

    Raises:
        TypeError, ValueError, OverflowError: it is not four finite numbers.
    """
    x, y, width, height = map(float, bbox)
    corners = (x, y, x + width, y + height)
    if not all(map(math.isfinite, corners)):
        raise ValueError(f"bbox {shortened(bbox)} is not finite")
    return corners


def _categories(file: Path, content: dict[str, Any]) -> dict[int | float | str, str]:
    try:
        return {usable_id(category["id"]): shortened(category["name"], 200) for category in content["categories"]}
    except (KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: a category lacks its id or name ({shortened(error)}); correct the file") from error


def _boxed_images(file: Path, content: dict[str, Any], folder: Path, split: str) -> tuple[list[BoxedImage], int]:
    """Images with their boxes, and the number of crowd boxes left out."""
    names, boxes, crowd = _categories(file, content), defaultdict(list), 0
    for number, annotation in enumerate(content["annotations"]):
        try:
            if annotation.get("iscrowd"):
                crowd += 1
                continue
            corners, name = corners_of_bbox(annotation["bbox"]), names[usable_id(annotation["category_id"])]
            boxes[usable_id(annotation["image_id"])].append((name, corners))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            reason = what_lacks(error)
            raise DataError(f"{file}: annotation {number} has no usable box ({reason}); correct the file") from error
    roots = image_roots(file, folder)
    try:
        images = [
            BoxedImage(str(image["file_name"]), file, roots, tuple(boxes[image["id"]]), split)
            for image in content["images"]
            if usable_id(image["id"]) in boxes
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: an image lacks its id or file_name ({shortened(error)}); correct it") from error
    return images, crowd

"""COCO JSON: the boxes of `images`, `annotations` and `categories`, as a classification set of crops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.domain import DomainData
from ..errors import DataError
from .class_folders import SPLIT_FOLDERS
from .crops import MIN_SIDE, BoxedImage, crops_of, image_folders
from .files import Format
from .images import IMAGE
from .tables import parse_json

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
    path = Path(path)
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
    class_names = list(dict.fromkeys(names[number] for number in sorted(names)))
    notes = [f"Crowd boxes, left out: {crowd}."] if crowd else []
    return crops_of(images, class_names, folder, formats, min_side, notes)


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
    try:
        content = parse_json(file, file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); check the path and its permissions") from error
    if not is_coco(content):
        raise DataError(f"{file}: has no 'images' and 'annotations' lists; give a COCO file with boxes")
    return content


def _categories(file: Path, content: dict[str, Any]) -> dict[int, str]:
    try:
        return {category["id"]: str(category["name"]) for category in content["categories"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: a category lacks its id or name ({error}); correct the file") from error


def _boxed_images(file: Path, content: dict[str, Any], folder: Path, split: str) -> tuple[list[BoxedImage], int]:
    """Images with their boxes, and the number of crowd boxes left out."""
    names, boxes, crowd = _categories(file, content), defaultdict(list), 0
    for number, annotation in enumerate(content["annotations"]):
        try:
            if annotation.get("iscrowd"):
                crowd += 1
                continue
            x, y, width, height = map(float, annotation["bbox"])
            boxes[annotation["image_id"]].append((names[annotation["category_id"]], (x, y, x + width, y + height)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: annotation {number} has no usable box ({error!r}); correct the file") from error
    roots = image_roots(file, folder)
    try:
        images = [
            BoxedImage(str(image["file_name"]), file, roots, tuple(boxes[image["id"]]), split)
            for image in content["images"]
            if image["id"] in boxes
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: an image lacks its id or file_name ({error}); correct the file") from error
    return images, crowd

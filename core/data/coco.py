"""COCO JSON: the boxes of `images`, `annotations` and `categories`, as a classification set of crops."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..contracts.items import DomainData
from ..errors import DataError, shortened
from ..runtime.reading import read_json
from .class_folders import Layout
from .crops import MIN_SIDE, Box, ListedImage, crops_of, image_folders
from .files import Format
from .images import IMAGE

Id = int | float | str
"""Of an image, an annotation or a category."""
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
    images, class_names, notes = CocoFile.boxed_images(Path(path))
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return crops_of(images, class_names, folder, formats, min_side, notes)


class Category(NamedTuple):
    """A class as a COCO or LVIS file lists it.

    Args:
        frequency: LVIS's letter, "" where it is not told.
    """

    name: str
    frequency: str


@dataclass(frozen=True)
class CocoFile:
    """A COCO file with boxes, read.

    Args:
        path: of the file.
        folder: of the set, in which the images lie.
        content: as parsed.
    """

    path: Path
    folder: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path, folder: Path) -> CocoFile:
        """Raises:
        DataError: it cannot be read, is not JSON (cut short), or has another shape.
        """
        content = read_json(path)
        if not cls.is_shape_of(content):
            raise DataError(f"{path}: has no 'images' and 'annotations' lists; give a COCO file with boxes")
        return cls(path, folder, content)

    @staticmethod
    def boxed_images(path: Path) -> tuple[list[ListedImage], list[str], list[str]]:
        """Images that have boxes, the names of the classes, and sentences for the user; path and errors as for
        `read_coco_crops`, but that any number of classes will do."""
        files = CocoFile.found_in(path) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: no COCO file in it; name it instances*.json")
        folder = path if path.is_dir() else path.parent
        if len(files) > 1 and not all(split_of(file, folder) for file in files):
            listed = ", ".join(file.name for file in files)
            raise DataError(f"{path}: holds {listed}, which are not train, val and test files; give one of them")
        names: dict[Id, str] = {}
        images: list[ListedImage] = []
        crowd = 0
        for file in files:
            coco = CocoFile.read(file, folder)
            own = {number: category.name for number, category in coco.categories().items()}
            names.update(own)
            more, dropped = _boxed_images(coco, own)
            images += more
            crowd += dropped
        class_names = list(dict.fromkeys(names[number] for number in CocoFile.in_order(names)))
        return images, class_names, [f"Crowd boxes, left out: {crowd}."] if crowd else []

    @staticmethod
    def found_in(folder: Path) -> list[Path]:
        """COCO files of a folder: those of the first pattern that finds any."""
        return next((files for pattern in PATTERNS if (files := sorted(folder.glob(pattern)))), [])

    @staticmethod
    def is_shape_of(content: Any) -> bool:
        """Whether parsed JSON has the shape of a COCO file with boxes."""
        return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("images", "annotations"))

    @staticmethod
    def id_of(entry: dict[str, Any], key: str = "id") -> Id:
        """The id of an image, an annotation or a category that an entry holds.

        Raises:
            KeyError: it holds none. TypeError: it is null, or no number and no text; or the entry is no object.
        """
        value = entry[key]
        if isinstance(value, Id) and not isinstance(value, bool) and value == value:
            return value
        raise TypeError(f"{shortened(repr(value), 20)} is not an id")

    @staticmethod
    def made_by(entry: dict[str, Any]) -> str:
        """Who made an annotation, or looked at an image: the `source` that labels of ours name, "" of others."""
        return next((maker for maker in (Box.MODEL, Box.PERSON) if entry.get("source") == maker), "")

    @staticmethod
    def in_order(ids: Iterable[Id]) -> list[Id]:
        """Sorted, numbers before texts."""
        return sorted(ids, key=lambda value: (isinstance(value, str), value))

    @property
    def split(self) -> str:
        """Which the name of the file or the folder above it tells, or ""."""
        return split_of(self.path, self.folder)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where the images that it lists may lie, all inside the set's folder."""
        named_as_file = self.path.stem.rsplit("_", 1)[-1]  # instances_train2017.json: train2017/
        folders = (*image_folders(self.folder), *image_folders(self.path.parent), self.folder / named_as_file)
        return tuple(dict.fromkeys(folders))

    def categories(self) -> dict[Id, Category]:
        """By their ids.

        Raises:
            DataError: one lacks its id or name, or has the id of another.
        """
        categories: dict[Id, Category] = {}
        try:
            for entry in self.content["categories"]:
                number, name = self.id_of(entry), shortened(entry["name"], 200)
                first = categories.setdefault(number, Category(name, shortened(entry.get("frequency", ""))))
                if first.name != name:
                    raise DataError(
                        f"{self.path}: category id {number!r} stands for '{first.name}' and for '{name}'; give each "
                        "category its own id"
                    )
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            reason = shortened(error)
            raise DataError(f"{self.path}: a category lacks its id or name ({reason}); correct the file") from error
        return categories

    def images(self) -> dict[Id, dict[str, Any]]:
        """Entries of images by their ids.

        Raises:
            DataError: one lacks its id or file_name, or has the id of another.
        """
        images: dict[Id, dict[str, Any]] = {}
        try:
            for entry in self.content["images"]:
                number, name = self.id_of(entry), self.file_name(entry)
                first = self.file_name(images.setdefault(number, entry))
                if first != name:
                    raise DataError(
                        f"{self.path}: image id {number!r} stands for '{first}' and for '{name}'; give each image its "
                        "own id"
                    )
        except (KeyError, TypeError, RecursionError) as error:
            reason = shortened(error)
            raise DataError(f"{self.path}: an image lacks its id or file_name ({reason}); correct it") from error
        return images

    @staticmethod
    def file_name(image: dict[str, Any]) -> str:
        """The listed path; LVIS gives an address that ends with it."""
        if "file_name" not in image and isinstance(image.get("coco_url"), str):
            return "/".join(image["coco_url"].split("/")[-2:])
        return str(image["file_name"])

    def annotations(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each with its number, from 0.

        Raises:
            DataError: one is no object.
        """
        for number, annotation in enumerate(self.content["annotations"]):
            if not isinstance(annotation, dict):
                raise DataError(f"{self.path}: annotation {number} is not an object; correct the file")
            yield number, annotation

    def box(self, number: int, annotation: dict[str, Any], names: Mapping[Id, str]) -> tuple[Box | None, Id]:
        """The object of an annotation, None where its class is not listed, and the id of its image. Its corners need
        not be finite; they are None where it has an outline alone.

        Args:
            number: of the annotation, from 0.
            names: of classes, by their ids.

        Raises:
            DataError: it lacks an id, or has no usable box.
        """
        try:
            image, category = self.id_of(annotation, "image_id"), self.id_of(annotation, "category_id")
            outline = annotation.get("segmentation") or None
            corners = None
            if annotation.get("bbox") is not None or outline is None:
                x, y, width, height = map(float, annotation["bbox"])
                corners = (x, y, x + width, y + height)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self.unusable(number, f"no {shortened(error)}" if isinstance(error, KeyError) else error) from error
        if category not in names:
            return None, image
        ignored, score = bool(annotation.get("iscrowd") or annotation.get("ignore")), annotation.get("score")
        score = score if isinstance(score, float) and 0 <= score <= 1 else None
        return Box(names[category], corners, outline, ignored, self.made_by(annotation), score), image

    def unusable(self, number: int, reason: object) -> DataError:
        """The line of an annotation, counted from 0, without a usable box."""
        return DataError(f"{self.path}: annotation {number} has no usable box ({shortened(reason)}); correct the file")


def split_of(file: Path, folder: Path) -> str:
    """The split that a file's name or the folder above it tells ("instances_train2017.json"), or ""."""
    words = file.stem.lower().rstrip("0123456789").split("_")
    if file.parent != folder:
        words.append(file.parent.name.lower())
    return next((Layout.SPLITS[word] for word in words if word in Layout.SPLITS), "")


def _boxed_images(coco: CocoFile, names: dict[Id, str]) -> tuple[list[ListedImage], int]:
    """Images with their boxes, and the number of crowd boxes left out."""
    images, boxes, crowd = coco.images(), defaultdict(list), 0
    for number, annotation in coco.annotations():
        if annotation.get("iscrowd"):
            crowd += 1
            continue
        box, image = coco.box(number, annotation, names)
        if box is None:
            raise coco.unusable(number, f"no category {annotation['category_id']!r}")
        if box.corners is None or not all(map(math.isfinite, box.corners)):
            raise coco.unusable(number, f"bbox {annotation.get('bbox')} is not finite")
        boxes[image].append(box)
    listed = [
        ListedImage(coco.file_name(image), coco.path, coco.roots, tuple(boxes[number]), coco.split)
        for number, image in images.items()
        if number in boxes
    ]
    return listed, crowd

"""COCO and LVIS JSON, read whole: boxes, outlines, crowds, and what LVIS says of classes and images.

Microsoft COCO (2014, arXiv 1405.0312); LVIS (2019, arXiv 1908.03195). Roboflow100-VL (2025, arXiv 2505.20612) has
COCO files in the folders train, valid and test, and a class 0 that names the set and groups the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from ....core.data import (
    by_kind_of_id,
    find_coco_files,
    image_roots,
    is_coco,
    read_coco_file,
    split_of,
    usable_id,
    what_lacks,
)
from ....core.errors import DataError, shortened
from ....core.runtime import read_json
from .boxes import Box, BoxSet, ListedImage

ANNOTATION_FOLDERS = ("annotations", "annotation", "Annotations")
UNLISTED_CLASS = "Annotations of a class id that the file does not list, left out"
UNLISTED_IMAGE = "Annotations of an image id that the file does not list, left out"
REPEATED = "Annotations that the file holds twice, kept once"
SAME_ID = "Different annotations with the same id, all kept"
SAME_NAME = "Class ids that share a name, taken as one class"
GROUPING = "Classes that name a group of others but have no box, left out"


def find_coco_annotations(folder: Path) -> list[Path]:
    """COCO or LVIS files with boxes in a folder: by their usual names, else any JSON file of that shape."""
    places = (folder, *(folder / name for name in ANNOTATION_FOLDERS))
    named = find_coco_files(folder) or [file for place in places for file in sorted(place.glob("lvis*.json"))]
    if named:
        return named
    per_place = ([file for file in sorted(place.glob("*.json")) if _has_boxes(file)] for place in places)
    return next(filter(None, per_place), [])


def read_coco_boxes(path: Path) -> BoxSet:
    """All images that a COCO or LVIS file lists, or those of a folder's files, with what is annotated in them.

    Args:
        path: a JSON file, or a folder with some. Of a folder's files without a split in their names that describe the
            same images, the one with the most images counts.

    Raises:
        DataError: no such file; it is cut short or malformed; one image id stands for two files; several files without
            a split describe different images.
    """
    files = find_coco_annotations(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no COCO file; name it instances*.json")
    folder = _set_folder(path)
    files, contents, notes = _chosen(path, files, folder)
    box_set = BoxSet([], (), folder, notes=notes)
    names, labels = _classes(files, contents, box_set.counts)
    box_set.class_names = list(names)
    if all(names.values()):
        box_set.frequency = tuple(names.values())
    for file, content in zip(files, contents, strict=True):
        box_set.images += _images(file, content, folder, labels[file], box_set.counts)
    return box_set


def _set_folder(path: Path) -> Path:
    if path.is_dir():
        return path
    return path.parent.parent if path.parent.name in ANNOTATION_FOLDERS else path.parent


def _has_boxes(file: Path) -> bool:
    try:
        content = read_json(file)
    except DataError:
        return False
    if not is_coco(content) or not isinstance(content.get("categories"), list):
        return False
    first = next(iter(content["annotations"]), {})
    return isinstance(first, dict) and "segments_info" not in first  # panoptic files have these


def _chosen(path: Path, files: list[Path], folder: Path) -> tuple[list[Path], list[dict[str, Any]], list[str]]:
    """The files to read, with their contents and notes."""
    contents = [read_coco_file(file) for file in files]
    for file, content in zip(files, contents, strict=True):
        if not isinstance(content.get("categories"), list):
            raise DataError(f"{file}: has no list of 'categories', so its classes have no names; add it")
    if len(files) < 2 or all(split_of(file, folder) for file in files):
        return files, contents, []
    listed = [{_file_name(file, image) for image in content["images"]} for file, content in zip(files, contents)]
    most = max(range(len(files)), key=lambda n: len(listed[n]))
    if not all(some <= listed[most] for some in listed):
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path}: holds {names}, which are not train, val and test files; give one of them")
    others = ", ".join(file.name for n, file in enumerate(files) if n != most)
    note = f"Read {files[most].name}; not read: {others}, of the same images. Give a file's path to read that one."
    return [files[most]], [contents[most]], [note]


def _classes(
    files: list[Path], contents: list[dict[str, Any]], counts: Counter
) -> tuple[dict[str, str], dict[Path, dict[Hashable, str]]]:
    """Class name -> frequency ("" where it is not told) in the order of ids, and the names by id of each file."""
    by_id: dict[Hashable, dict[str, str]] = defaultdict(dict)
    per_file: dict[Path, dict[Hashable, str]] = {}
    for file, content in zip(files, contents, strict=True):
        try:
            listed = content["categories"]
            categories = {usable_id(entry["id"]): _named_and_counted(entry) for entry in listed}
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{file}: a category lacks its id or name ({shortened(error)}); correct it") from error
        per_file[file] = {number: name for number, (name, _) in categories.items()}
        for number, (name, frequency) in categories.items():
            by_id[number].setdefault(name, frequency)
    pairs = [pair for number in sorted(by_id, key=by_kind_of_id) for pair in by_id[number].items()]
    grouping = _grouping(contents, [per_file[file] for file in files])
    names: dict[str, str] = {}
    for name, frequency in pairs:
        if name not in grouping:
            names.setdefault(name, frequency)
    counts[GROUPING] += len(grouping)
    counts[SAME_NAME] += len(pairs) - len(names) - len(grouping)
    return names, per_file


def _grouping(contents: list[dict[str, Any]], names: list[dict[Hashable, str]]) -> set[str]:
    """Names of categories that are the supercategory of others and have no annotation in any file.

    Args:
        names: of each content its categories' names by id.
    """
    groups: set[str] = set()
    used: set[str] = set()
    for content, by_id in zip(contents, names, strict=True):
        parents = [(entry.get("supercategory"), by_id[entry["id"]]) for entry in content["categories"]]
        groups |= {parent for parent, name in parents if isinstance(parent, str) and parent != name}
        for annotation in content["annotations"]:
            number = annotation.get("category_id") if isinstance(annotation, dict) else None
            if isinstance(number, Hashable) and number in by_id:
                used.add(by_id[number])
    return groups.intersection(name for by_id in names for name in by_id.values()) - used


def _named_and_counted(category: dict[str, Any]) -> tuple[str, str]:
    return shortened(category["name"], 200), shortened(category.get("frequency", ""))


def _images(
    file: Path, content: dict[str, Any], folder: Path, labels: dict[Hashable, str], counts: Counter
) -> list[ListedImage]:
    images = _images_by_id(file, content)
    boxes: dict[Hashable, list[Box]] = defaultdict(list)
    for number, annotation in enumerate(_once(file, content["annotations"], counts)):
        box, image = _box(file, number, annotation, labels, counts)
        if image not in images:
            counts[UNLISTED_IMAGE] += 1
        elif box is not None:
            boxes[image].append(box)
    roots, split = _roots(file, folder), split_of(file, folder)
    return [
        ListedImage(
            name=_file_name(file, image),
            listed_in=file,
            roots=roots,
            boxes=tuple(boxes[number]),
            split=split,
            size=_listed_size(image),
            absent=_named(image["neg_category_ids"], labels) if "neg_category_ids" in image else None,
            partial=_named(image.get("not_exhaustive_category_ids"), labels),
        )
        for number, image in images.items()
    ]


def _images_by_id(file: Path, content: dict[str, Any]) -> dict[Hashable, dict[str, Any]]:
    images: dict[Hashable, dict[str, Any]] = {}
    for image in content["images"]:
        try:
            number, name = usable_id(image["id"]), _file_name(file, image)
            known = images.setdefault(number, image)
        except (KeyError, TypeError) as error:
            raise DataError(f"{file}: an image lacks its id or file_name ({shortened(error)}); correct it") from error
        if _file_name(file, known) != name:
            raise DataError(
                f"{file}: image id {number!r} stands for '{_file_name(file, known)}' and for '{name}'; give each "
                "image its own id"
            )
    return images


def _file_name(file: Path, image: dict[str, Any]) -> str:
    """The listed path; LVIS gives an address that ends with it."""
    if isinstance(image, dict) and "file_name" not in image and isinstance(image.get("coco_url"), str):
        return "/".join(image["coco_url"].split("/")[-2:])
    return str(image["file_name"])


def _once(file: Path, annotations: Iterable[Any], counts: Counter) -> Iterable[dict[str, Any]]:
    """Annotations without exact repetitions; ids matter for nothing else."""
    seen: dict[Hashable, Any] = {}
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise DataError(f"{file}: annotation {number} is not an object; correct the file")
        key = annotation.get("id")
        if isinstance(key, Hashable) and key is not None:
            known = seen.setdefault(key, annotation)
            if known is not annotation and known == annotation:
                counts[REPEATED] += 1
                continue
            counts[SAME_ID] += known is not annotation
        yield annotation


def _box(
    file: Path, number: int, annotation: dict[str, Any], labels: dict[Hashable, str], counts: Counter
) -> tuple[Box | None, Hashable]:
    """The object, None where its class is not listed, and the id of its image."""
    try:
        image, category = usable_id(annotation["image_id"]), usable_id(annotation["category_id"])
        outline = annotation.get("segmentation") or None
        corners = None
        if annotation.get("bbox") is not None or outline is None:
            x, y, width, height = map(float, annotation["bbox"])  # those that are not finite are counted later
            corners = (x, y, x + width, y + height)
        name = labels.get(category)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = what_lacks(error)
        raise DataError(f"{file}: annotation {number} has no usable box ({reason}); correct the file") from error
    if name is None:
        counts[UNLISTED_CLASS] += 1
        return None, image
    return Box(name, corners, outline, bool(annotation.get("iscrowd") or annotation.get("ignore"))), image


def _named(numbers: Any, labels: dict[Hashable, str]) -> tuple[str, ...]:
    listed = numbers if isinstance(numbers, list) else ()
    return tuple(labels[number] for number in listed if isinstance(number, Hashable) and number in labels)


def _listed_size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    whole = isinstance(width, int) and isinstance(height, int)
    return (width, height) if whole and min(width, height) > 0 and max(width, height) < 1 << 31 else None


def _roots(file: Path, folder: Path) -> tuple[Path, ...]:
    """Also "images/train2017/" of "instances_train2017.json", and "train/" of "lvis_v1_train.json"."""
    roots = image_roots(file, folder)
    named = file.stem.rsplit("_", 1)[-1]
    more = (folder / "images" / named, *(folder / f"{named}{year}" for year in (2017, 2014)))
    return tuple(dict.fromkeys((*roots, *more)))

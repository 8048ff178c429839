"""COCO and LVIS JSON, read whole: boxes, outlines, crowds, and what LVIS says of classes and images.

Microsoft COCO (2014, arXiv 1405.0312); LVIS (2019, arXiv 1908.03195). Roboflow100-VL (2025, arXiv 2505.20612) has
COCO files in the folders train, valid and test, and a class 0 that names the set and groups the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from ....core.data import Box, CocoFile, ListedImage
from ....core.errors import DataError
from ....core.runtime import read_json
from .boxes import BoxSet
from .outlines_beside import with_outlines_of

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
    named = CocoFile.found_in(folder) or [file for place in places for file in sorted(place.glob("lvis*.json"))]
    if named:
        return named
    per_place = ([file for file in sorted(place.glob("*.json")) if _has_boxes(file)] for place in places)
    return next(filter(None, per_place), [])


def read_coco_boxes(path: Path) -> BoxSet:
    """All images that a COCO or LVIS file lists, or those of a folder's files, with what is annotated in them.

    Args:
        path: a JSON file, or a folder with some. Of a folder's files without a split in their names that describe the
            same images, the one with the most images counts; its boxes without an outline get that of another file.

    Raises:
        DataError: no such file; it is cut short or malformed; one image id stands for two files; several files without
            a split describe different images.
    """
    files = find_coco_annotations(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no COCO file; name it instances*.json")
    chosen, beside = _chosen(path, [CocoFile.read(file, _set_folder(path)) for file in files])
    box_set = BoxSet([], (), _set_folder(path))
    names, labels = _classes(chosen, box_set.counts)
    box_set.class_names = list(names)
    if all(names.values()):
        box_set.frequency = tuple(names.values())
    for coco in chosen:
        box_set.images += _images(coco, labels[coco.path], box_set.counts)
    if beside:
        box_set.notes += _add_outlines(box_set, chosen[0], beside)
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
    if not CocoFile.is_shape_of(content) or not isinstance(content.get("categories"), list):
        return False
    first: Any = next(iter(content["annotations"]), {})
    return isinstance(first, dict) and "segments_info" not in first  # panoptic files have these


def _add_outlines(box_set: BoxSet, chosen: CocoFile, beside: list[CocoFile]) -> list[str]:
    """Give boxes without an outline those that files beside the chosen one have; returns notes on all of them."""
    notes, unread = [], []
    for file in beside:
        names = {number: name for number, (name, _) in file.categories().items()}
        box_set.images, outlined = with_outlines_of(box_set.images, _images(file, names, Counter()))
        if outlined:
            notes.append(f"Outlines of {file.path.name}, taken for the same boxes of {chosen.path.name}: {outlined}.")
        else:
            unread.append(file.path.name)
    if unread:
        others = ", ".join(unread)
        notes.append(
            f"Read {chosen.path.name}; not read: {others}, of the same images. Give a file's path to read that one."
        )
    return notes


def _chosen(path: Path, files: list[CocoFile]) -> tuple[list[CocoFile], list[CocoFile]]:
    """The files that count, and others of the same images."""
    for file in files:
        if not isinstance(file.content.get("categories"), list):
            raise DataError(f"{file.path}: has no list of 'categories', so its classes have no names; add it")
    if len(files) < 2 or all(file.split for file in files):
        return files, []
    listed = [set(map(file.file_name, file.images().values())) for file in files]
    most = max(range(len(files)), key=lambda n: len(listed[n]))
    if not all(some <= listed[most] for some in listed):
        names = ", ".join(file.path.name for file in files)
        raise DataError(f"{path}: holds {names}, which are not train, val and test files; give one of them")
    return [files[most]], [file for n, file in enumerate(files) if n != most]


def _classes(files: list[CocoFile], counts: Counter) -> tuple[dict[str, str], dict[Path, dict[Hashable, str]]]:
    """Class name -> frequency ("" where it is not told) in the order of ids, and the names by id of each file."""
    by_id: dict[Hashable, dict[str, str]] = defaultdict(dict)
    per_file: dict[Path, dict[Hashable, str]] = {}
    for file in files:
        categories = file.categories()
        per_file[file.path] = {number: name for number, (name, _) in categories.items()}
        for number, (name, frequency) in categories.items():
            by_id[number].setdefault(name, frequency)
    pairs = [pair for number in CocoFile.in_order(by_id) for pair in by_id[number].items()]
    grouping = _grouping(files, per_file)
    names: dict[str, str] = {}
    for name, frequency in pairs:
        if name not in grouping:
            names.setdefault(name, frequency)
    counts[GROUPING] += len(grouping)
    counts[SAME_NAME] += len(pairs) - len(names) - len(grouping)
    return names, per_file


def _grouping(files: list[CocoFile], names: dict[Path, dict[Hashable, str]]) -> set[str]:
    """Names of categories that are the supercategory of others and have no annotation in any file.

    Args:
        names: of each file its categories' names by id.
    """
    groups: set[str] = set()
    used: set[str] = set()
    for file in files:
        content, by_id = file.content, names[file.path]
        parents = [(entry.get("supercategory"), by_id[entry["id"]]) for entry in content["categories"]]
        groups |= {parent for parent, name in parents if isinstance(parent, str) and parent != name}
        for annotation in content["annotations"]:
            number = annotation.get("category_id") if isinstance(annotation, dict) else None
            if isinstance(number, Hashable) and number in by_id:
                used.add(by_id[number])
    return groups.intersection(name for by_id in names.values() for name in by_id.values()) - used


def _images(coco: CocoFile, labels: dict[Hashable, str], counts: Counter) -> list[ListedImage]:
    images = coco.images()
    boxes: dict[Hashable, list[Box]] = defaultdict(list)
    for number, annotation in _once(coco, counts):
        box, image = coco.box(number, annotation, labels)
        counts[UNLISTED_CLASS] += box is None
        if image not in images:
            counts[UNLISTED_IMAGE] += 1
        elif box is not None:
            boxes[image].append(box)
    # Also "images/train2017/" of "instances_train2017.json", and "train/" of "lvis_v1_train.json".
    folder, named = coco.folder, coco.path.stem.rsplit("_", 1)[-1]
    more = (folder / "images" / named, *(folder / f"{named}{year}" for year in (2017, 2014)))
    roots = tuple(dict.fromkeys((*coco.roots, *more)))
    return [
        ListedImage(
            name=coco.file_name(image),
            listed_in=coco.path,
            roots=roots,
            boxes=tuple(boxes[number]),
            split=coco.split,
            size=_listed_size(image),
            absent=_named(image["neg_category_ids"], labels) if "neg_category_ids" in image else None,
            partial=_named(image.get("not_exhaustive_category_ids"), labels),
            made_by=coco.made_by(image),
        )
        for number, image in images.items()
    ]


def _once(coco: CocoFile, counts: Counter) -> Iterator[tuple[int, dict[str, Any]]]:
    """Annotations without exact repetitions; ids matter for nothing else."""
    seen: dict[Hashable, Any] = {}
    for number, annotation in coco.annotations():
        key = annotation.get("id")
        if isinstance(key, Hashable) and key is not None:
            first = seen.setdefault(key, annotation)
            if first is not annotation and first == annotation:
                counts[REPEATED] += 1
                continue
            counts[SAME_ID] += first is not annotation
        yield number, annotation


def _named(numbers: Any, labels: dict[Hashable, str]) -> tuple[str, ...]:
    listed = numbers if isinstance(numbers, list) else ()
    return tuple(labels[number] for number in listed if isinstance(number, Hashable) and number in labels)


def _listed_size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if not (isinstance(width, int) and isinstance(height, int)):
        return None
    return (width, height) if min(width, height) > 0 and max(width, height) < 1 << 31 else None

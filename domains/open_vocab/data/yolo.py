"""YOLO folders: `labels/*.txt` with one object per line, boxes or polygons, in shares of the image's width and height.

Names of classes are those of `data.yaml`, `classes.txt` or `obj.names`. An image without a label file has no objects.
Who made the objects, which such files cannot say, `vladapt predict --as yolo` writes into `sources.json` beside them:
{"format": "vladapt-sources", "version": 1, "images": {path of the image: {"source", "boxes": [{"source", "score"}]}}},
the boxes in the order of the lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ....core.data import (
    IMAGE,
    Box,
    Format,
    ItemCollector,
    Layout,
    ListedImage,
    shown,
    stays_inside,
    walk,
)
from ....core.errors import ConfigError, DataError
from ....core.runtime import read_json, read_text, read_yaml
from .boxes import BoxSet

MAKERS = (Box.MODEL, Box.PERSON)
NAME_FILES = ("classes.txt", "obj.names", "names.txt", "classes.names")
IMAGE_FOLDER_NAMES = ("images", "JPEGImages")
SOURCES, SOURCES_FORMAT, SOURCES_VERSION = "sources.json", "vladapt-sources", 1
UNLISTED_CLASS = "Objects of a class number that has no name, left out"


def is_yolo(folder: Path) -> bool:
    """Whether a folder has YOLO's names of classes, or label files where YOLO keeps them."""
    labels = (folder / "labels", *(folder / split / "labels" for split in Layout.SPLITS))
    return bool(_yaml(folder)) or _name_file(folder) is not None or any(any(p.rglob("*.txt")) for p in labels)


def read_yolo(path: Path, class_names: Sequence[str] | None = None, formats: Sequence[Format] = (IMAGE,)) -> BoxSet:
    """All images of the set.

    Args:
        path: the folder, or its data.yaml.
        class_names: names by number, where the set has none.
        formats: what counts as an image.

    Raises:
        DataError: no names, no label file, or a line that is not an object.
        ConfigError: names are given where the set has others.
    """
    yaml = path if path.is_file() else _yaml(path)
    folder = path.parent if path.is_file() else path
    config = _read_yaml(yaml) if yaml else {}
    names = _names(folder, yaml, config, class_names)
    collector, result = ItemCollector(), BoxSet([], list(dict.fromkeys(names.values())), folder)
    seen: set[Path] = set()
    sources = _sources(folder)
    for place, split in _places(folder, yaml, config):
        for file in _images_at(place, folder, collector, formats):
            if file not in seen:
                seen.add(file)
                image = _image(file, folder, split or _split_of(file, folder), names, result)
                result.images.append(_with_sources(image, sources.get(image.name)))
    labels = {_label_file(file, folder) for file in seen}
    if not any(label is not None for label in labels):
        raise DataError(f"{folder}: no label file next to any of its {len(seen)} images; put them into labels/")
    _list_orphans(folder, {label for label in labels if label is not None}, collector)
    result.skipped = collector.skipped
    return result


def _sources(folder: Path) -> dict[str, Any]:
    """Path of an image -> who made its objects; {} where nothing says."""
    if not (folder / SOURCES).is_file():
        return {}
    content = read_json(folder / SOURCES)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, dict) or (content.get("format"), content.get("version")) != (
        SOURCES_FORMAT,
        SOURCES_VERSION,
    ):
        raise DataError(f"{folder / SOURCES}: does not say who made the labels; remove it, or write the labels again")
    return images


def _with_sources(image: ListedImage, told: Any) -> ListedImage:
    """The image with who made its objects; where their number was changed since, of the image alone."""
    if not isinstance(told, dict):
        return image
    made_by = told.get("source") if told.get("source") in MAKERS else ""
    listed = told.get("boxes")
    listed = listed if isinstance(listed, list) and len(listed) == len(image.boxes) else [{}] * len(image.boxes)
    boxes = tuple(_made(box, entry if isinstance(entry, dict) else {}) for box, entry in zip(image.boxes, listed))
    return replace(image, boxes=boxes, made_by=made_by)


def _made(box: Box, entry: dict[str, Any]) -> Box:
    score = entry.get("score")
    score = score if isinstance(score, float) and 0 <= score <= 1 else None
    return replace(box, made_by=entry.get("source") if entry.get("source") in MAKERS else "", score=score)


def _yaml(folder: Path) -> Path | None:
    """The file that names classes: data.yaml, or the only other one with names."""
    patterns = ("data.yaml", "data.yml", "dataset.yaml", "*.yaml", "*.yml")
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return next((file for file in files if "names" in _peek_yaml(file)), None)


def _peek_yaml(file: Path) -> dict[str, Any]:
    try:
        return _read_yaml(file)
    except DataError:
        return {"names": None} if file.stem in ("data", "dataset") else {}


def _read_yaml(file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    return content if isinstance(content, dict) else {}


def _name_file(folder: Path) -> Path | None:
    places = (folder, folder / "labels", *(folder / split for split in Layout.SPLITS))
    return next((place / name for place in places for name in NAME_FILES if (place / name).is_file()), None)


def _names(folder: Path, yaml: Path | None, config: dict[str, Any], given: Sequence[str] | None) -> dict[int, str]:
    """Class number -> name."""
    written = config.get("names")
    if written is None and (listed := _name_file(folder)) is not None:
        written = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
    if written is None:
        if given is None:
            raise DataError(f"{folder}: nothing names its classes; add classes.txt or data.yaml, or give class_names")
        return dict(enumerate(given))
    try:
        names = written.items() if isinstance(written, dict) else enumerate(written)
        named = {int(number): str(name).strip() for number, name in sorted(names, key=lambda entry: int(entry[0]))}
    except (TypeError, ValueError) as error:
        raise DataError(f"{yaml or folder}: its names are not a list of classes ({error}); write a list") from error
    if given is not None and not set(given) <= set(named.values()):
        raise ConfigError(
            f"class_names ({', '.join(given)}) are not those of {yaml or folder} ({', '.join(named.values())}); omit "
            "the option, or correct it"
        )
    return named


def _places(folder: Path, yaml: Path | None, config: dict[str, Any]) -> list[tuple[Path, str]]:
    """Folders or lists of images, with their split."""
    base = folder / str(config["path"]) if isinstance(config.get("path"), str) else folder
    base = base if base.is_dir() and stays_inside(base, folder) else folder
    places = []
    for key, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test")):
        written = config.get(key)
        for entry in [written] if isinstance(written, str) else written or ():
            place = _inside(str(entry), (base, folder))
            if place is None:
                raise DataError(f"{yaml}: {key} '{entry}' is not in {folder}; correct the path")
            places.append((place, split))
    if places:
        return places
    return [(folder / "images" if (folder / "images").is_dir() else folder, "")]


def _inside(written: str, bases: Sequence[Path]) -> Path | None:
    """A path that a config writes, below the set's folder: leading "../" are those of another working directory."""
    parts = [part for part in PurePosixPath(written.replace("\\", "/")).parts if part not in ("..", ".", "/")]
    tries = [base.joinpath(*parts[start:]) for start in range(len(parts) + 1) for base in bases]
    return next((path for path in tries if path.exists() and stays_inside(path, bases[-1])), None)


def _images_at(place: Path, folder: Path, collector: ItemCollector, formats: Sequence[Format]) -> list[Path]:
    if place.is_dir():
        return [file for file in walk(place, folder, collector) if Format.of(file, formats) is not None]
    files = []
    for line in read_text(place, lenient=True).splitlines():
        if line.strip():
            file = _inside(line.strip(), (place.parent, folder))
            if file is None or not file.is_file():
                collector.skip(line.strip(), f"no such file; listed in {place}")
            else:
                files.append(file)
    return files


def _split_of(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder).parts[:-1]
    return next((Layout.SPLITS[part.lower()] for part in parts if part.lower() in Layout.SPLITS), "")


def _label_file(image: Path, folder: Path) -> Path | None:
    """`labels/` in place of the last `images/`, or beside the image."""
    parts = list(image.relative_to(folder).with_suffix(".txt").parts)
    tries = [folder.joinpath(*parts)]
    for place in reversed(range(len(parts) - 1)):
        if parts[place] in IMAGE_FOLDER_NAMES:
            tries.insert(0, folder.joinpath(*parts[:place], "labels", *parts[place + 1 :]))
            break
    else:
        tries.insert(0, folder.joinpath("labels", *parts))
    return next((file for file in tries if file.is_file() and stays_inside(file, folder)), None)


def _list_orphans(folder: Path, used: set[Path], collector: ItemCollector) -> None:
    places = [folder / "labels", *(folder / split / "labels" for split in Layout.SPLITS)]
    for file in sorted({file for place in places for file in place.rglob("*.txt")} - used):
        if file.name not in NAME_FILES:
            collector.skip(shown(file, folder), "a label file without an image of its name")


def _image(file: Path, folder: Path, split: str, names: dict[int, str], result: BoxSet) -> ListedImage:
    label = _label_file(file, folder)
    boxes = [] if label is None else _objects(label, names, result)
    name = file.relative_to(folder).as_posix()
    return ListedImage(name, label or file, (folder,), tuple(boxes), split, relative=True)


def _objects(file: Path, names: dict[int, str], result: BoxSet) -> list[Box]:
    boxes = []
    for number, line in enumerate(read_text(file, lenient=True).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            values = [float(value) for value in line.split()]
            label = int(values[0])
            corners, outline = _shape(values[1:])
        except (ValueError, OverflowError) as error:
            raise DataError(
                f"{file} line {number}: not an object ({error}); write class x y width height, or class and a polygon"
            ) from error
        if label not in names:
            result.counts[UNLISTED_CLASS] += 1
            continue
        boxes.append(Box(names[label], corners, outline))
    return boxes


def _shape(values: list[float]) -> tuple[tuple[float, float, float, float] | None, list[list[float]] | None]:
    """Corners and outline, in shares."""
    if len(values) == 4:
        x, y, width, height = values
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    if len(values) >= 6 and len(values) % 2 == 0:
        return (min(values[0::2]), min(values[1::2]), max(values[0::2]), max(values[1::2])), [values]
    raise ValueError(f"{len(values) + 1} numbers")

"""What a detector found, from COCO JSON: boxes by the ids of a data set's images.

Two forms are read: the list of results that detectors write, `[{image_id, category_id, bbox, score}, ...]`, and a whole
COCO file with `images`, `annotations` and `categories`, where a score may be missing and counts as 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..contracts.features import Detection
from ..errors import DataError, shortened
from ..runtime.reading import MOST_DIGITS, read_json
from .coco import CocoFile, Id


def read_detections(path: str | Path, ids: Sequence[str]) -> dict[str, tuple[Detection, ...]]:
    """Item id -> what was found in that image, the highest score first; an image without boxes has no entry.

    A result refers to an image by the `id` it has in `images`, or without such a list by its file name or number. That
    name is sought among `ids` as `match_images` does. Boxes of images that are not among them are left out, as are
    crowds (`iscrowd`) and boxes without area.

    Args:
        path: the JSON file.
        ids: of the data set's items (`Item.id`).

    Raises:
        DataError: a file cannot be read or has another shape; an entry lacks its image or has no usable box, score or
            category; an image's name fits several items; there are no boxes, or none of these images.
    """
    path = Path(path)
    content = _read(path)
    whole = {"annotations": content} if isinstance(content, list) else content
    coco, names, labels = CocoFile(path, path.parent, whole), None, None
    if whole.get("images") is not None:
        names = {number: coco.file_name(image) for number, image in coco.images().items()}
    if whole.get("categories") is not None:
        labels = {number: category.name for number, category in coco.categories().items()}
    by_image = _by_image(path, whole["annotations"], names, labels)
    if not by_image:
        raise DataError(f"{path}: holds no boxes; give the output of a detector that found some")
    listed = list(by_image) if names is None else list(names.values())
    items = match_images(path, listed, ids)
    ranked: dict[str, tuple[Detection, ...]] = {}
    for name, boxes in by_image.items():
        if name in items:
            ranked[items[name]] = tuple(sorted(boxes, key=lambda box: -box.score))
    return ranked


def _read(path: Path) -> Any:
    """A list of results, or a dict with a list of `annotations`."""
    content = read_json(path)
    if not isinstance(content, list) and not (
        isinstance(content, dict) and isinstance(content.get("annotations"), list)
    ):
        raise DataError(f"{path}: neither a list of results nor annotations; give a detector's COCO JSON")
    return content


def _by_image(
    path: Path,
    entries: Iterable[Any],
    names: Mapping[Id, str] | None,
    labels: Mapping[Id, str] | None,
) -> dict[str, list[Detection]]:
    """Image name -> its boxes with an area."""
    by_image: dict[str, list[Detection]] = defaultdict(list)
    for number, entry in enumerate(entries):
        place = f"{path}: entry {number}"
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise DataError(f"{place} has no image_id; write one object per box, with image_id and bbox")
        if entry.get("iscrowd"):
            continue
        label = "" if labels is None or "category_id" not in entry else _named(place, "category_id", entry, labels)
        detection = Detection(_corners(place, entry.get("bbox")), _score(place, entry.get("score")), label)
        image = str(entry["image_id"]) if names is None else _named(place, "image_id", entry, names)
        x0, y0, x1, y1 = detection.box
        if x1 > x0 and y1 > y0:
            by_image[image].append(detection)
    return dict(by_image)


def _named(place: str, key: str, entry: Mapping[str, Any], names: Mapping[Id, str]) -> str:
    try:
        return names[entry[key]]
    except (KeyError, TypeError):
        raise DataError(
            f"{place} has {key} {shortened(repr(entry[key]))}, which the file does not define; add or correct it"
        ) from None


def _corners(place: str, bbox: Any) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a COCO box [x, y, width, height]."""
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{place} has bbox {shortened(repr(bbox))}; give [x, y, width, height]") from None
    if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
        raise DataError(
            f"{place} has bbox {shortened(repr(bbox))}; give finite numbers, with width and height of 0 or more"
        )
    return x, y, x + width, y + height


def _score(place: str, score: Any) -> float:
    if score is None:
        return 1.0
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"{place} has score {shortened(repr(score))}; give a confidence from 0 to 1, or none")
    return float(score)


def match_images(path: Path, listed: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Image as a file lists it -> the item's id, for those that are among `ids`.

    Tried in this order: the whole name, the file's name, its stem, and the number that a stem is ("000000000139" for
    139). An item found by one is not sought by the next. Folders before an equal file name or stem must agree as far as
    both have them, and the item that shares the most of them is meant; where they do not agree, the name counts if the
    file lists no other image of that name.

    Args:
        path: the file, for messages.
        listed: names of images, or their numbers as text.
        ids: of items; parts of a file ("scan.dcm#2") are found by their whole name only.

    Raises:
        DataError: a name fits several items, several names fit one, or none fits.
    """
    matched: dict[str, str] = {}
    names, free = list(dict.fromkeys(listed)), list(dict.fromkeys(ids))
    for key in (_plain, _file_name, _stem, _number):
        alike = Counter(map(key, names))
        left = [(name, alike[key(name)] == 1) for name in names if name not in matched]
        more = _match_by(path, key, left, free)
        matched.update(more)
        taken = set(more.values())
        free = [id_ for id_ in free if id_ not in taken]
    if not matched:
        first = ", ".join(repr(shortened(some[0])) for some in (names, ids) if some)
        raise DataError(
            f"{path}: none of its {len(names)} images is in the data ({first}); use the file names of the data"
        )
    return matched


def _match_by(
    path: Path, key: Callable[[str], Hashable], names: Sequence[tuple[str, bool]], ids: Sequence[str]
) -> dict[str, str]:
    """Name -> id of those with the same key; a name comes with whether its key is its own among all that are listed."""
    by_key: dict[Hashable, list[str]] = defaultdict(list)
    for id_ in ids:
        by_key[key(id_)].append(id_)
    matched: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name, distinct in names:
        fitting = [] if key(name) is None else by_key.get(key(name), [])
        shared = [_shared_folders(name, id_) for id_ in fitting]
        if any(count is not None for count in shared):
            most = max(count for count in shared if count is not None)
            fitting = [id_ for id_, count in zip(fitting, shared, strict=True) if count == most]
        elif not distinct:
            fitting = []
        if len(fitting) > 1:
            either, other = (shortened(id_) for id_ in fitting[:2])
            raise DataError(f"{path}: image '{shortened(name)}' may be '{either}' or '{other}'; add its folder")
        for id_ in fitting:
            if id_ in owner:
                raise DataError(
                    f"{path}: '{owner[id_]}' and '{name}' may both be '{id_}'; write the name as in the data"
                )
            matched[name], owner[id_] = id_, name
    return matched


def _plain(name: str) -> str:
    """A path with "/" between its parts and no "./" before them."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _file_name(name: str) -> str:
    return PurePosixPath(_plain(name)).name


def _stem(name: str) -> str | None:
    file = PurePosixPath(_plain(name))
    return None if "#" in file.suffix else file.stem


def _number(name: str) -> int | None:
    stem = _stem(name)
    return int(stem) if stem is not None and stem.isascii() and stem.isdigit() and len(stem) <= MOST_DIGITS else None


def _shared_folders(one: str, other: str) -> int | None:
    """How many folders before two file names are the same, as far as both have some; None where one of them differs."""
    folders, others = (PurePosixPath(_plain(name)).parts[-2::-1] for name in (one, other))  # the nearest first
    count = min(len(folders), len(others))
    return count if folders[:count] == others[:count] else None

"""Text-to-image person search: the JSON lists of CUHK-PEDES, ICFG-PEDES and RSTPReid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...contracts.errors import DataError
from .listed_images import ListedImages
from .pair_set import PairSet
from .record_fields import split_named

IMAGE_KEYS = ("file_path", "img_path")


def is_person_search(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and {"captions", "id"} <= content[0].keys()
        and any(key in content[0] for key in IMAGE_KEYS)
    )


def read_person_search(path: Path, content: list[Any], root: Path | None = None) -> PairSet:
    """Images with their captions; the class of an image is the person, `id`.

    Args:
        path: the file.
        content: what is in it: objects with `captions`, `file_path` (or `img_path`), `id`, and `split` if there are
            any.
        root: folder of the images; by default the file's own; in it also `imgs/` and `images/`.

    Raises:
        DataError: an entry is no object, a split is unknown, or no image can be used.
    """
    listed = ListedImages(path, root)
    for number, entry in enumerate(content, start=1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is no JSON object; give one object an image")
        name = next((entry[key] for key in IMAGE_KEYS if entry.get(key)), None)
        split = split_named(str(entry.get("split") or ""), f"{path} entry {number}")
        person = entry.get("id")
        listed.add(name, entry.get("captions"), number, label="" if person is None else str(person), split=split)
    return listed.build()

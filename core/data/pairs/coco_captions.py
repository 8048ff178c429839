"""COCO captions: JSON with `images` and `annotations` that have an `image_id` and a `caption`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...contracts.errors import DataError
from ..coco import split_of
from .json_files import read_json
from .listed_images import ListedImages
from .pair_set import PairSet


def is_coco_captions(content: Any) -> bool:
    """Whether parsed JSON has the shape of such a file."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("images"), list)
        and isinstance(content.get("annotations"), list)
        and any(isinstance(annotation, dict) and "caption" in annotation for annotation in content["annotations"][:1])
    )


def read_coco_captions(paths: Sequence[Path], root: Path | None = None) -> PairSet:
    """The images of one or more files, each with its captions.

    Several files tell the splits by their names (`captions_train2017.json`); the name of a single one does not count,
    so that it can be divided.

    Args:
        paths: the files.
        root: folder of the images; by default that of the files, or the one above `annotations/`; in it also
            `images/`, `JPEGImages/`, and `train2017/` for `captions_train2017.json`.

    Raises:
        DataError: a file cannot be read or is no COCO file, or no image can be used.
    """
    listed = ListedImages(paths[0], root, also=[path.stem.rsplit("_", 1)[-1] for path in paths])
    without = 0
    for path in paths:
        content = read_json(path)
        if not is_coco_captions(content):
            raise DataError(f"{path}: no COCO captions; give images, and annotations with image_id and caption")
        split = split_of(path, path.parent) if len(paths) > 1 else ""
        captions = _captions(path, content["annotations"])
        for number, image in enumerate(content["images"], start=1):
            if not isinstance(image, dict) or not isinstance(image.get("id"), (int, str)):
                raise DataError(f"{path}: image {number} has no usable id; correct the file")
            found = captions.get(image["id"])
            if found is None:
                without += 1
            else:
                listed.add(image.get("file_name"), found, number, split=split)
    if without:
        listed.builder.notes.append(f"Images without a caption, left out: {without}.")
    return listed.build()


def _captions(path: Path, annotations: list[Any]) -> dict[Any, list[Any]]:
    captions = defaultdict(list)
    for number, annotation in enumerate(annotations, start=1):
        try:
            captions[annotation["image_id"]].append(annotation["caption"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: annotation {number} lacks its image_id or caption ({error}); correct the file"
            ) from error
    return captions

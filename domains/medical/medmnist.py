"""MedMNIST files: one `.npz` with train, val and test images and labels ("MedMNIST v2", 2021, arXiv 2110.14795).

A set is small images (N, H, W) or (N, H, W, 3), or volumes (N, D, H, W) of which one slice is shown; labels are one
class index a row, or several 0/1 columns (ChestMNIST). Rows are hashed one at a time while reading and decoded from
memory, or from a memory-mapped copy where an array is large, so that memory does not grow with the set.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, DomainData, Item, Label, Labels, check_items
from ...core.errors import ConfigError, DataError, LimitError
from .npz_rows import array_names, array_row, array_shape, iterate_rows, read_array

SPLITS = ("train", "val", "test")
VOLUME_AXES = {"axial": 0, "coronal": 1, "sagittal": 2}
LABELS_FILE = Path(__file__).with_name("medmnist_labels.json")
MOST_CLASSES = 10_000
"""Of a set with fewer rows."""
LICENCE = "CC BY 4.0 (DermaMNIST: CC BY-NC 4.0), as MedMNIST states"


def is_medmnist(path: Path) -> bool:
    """Whether a file looks like a MedMNIST set: an .npz with images and labels of a split."""
    return path.suffix.lower() == ".npz" and any(
        {f"{split}_images", f"{split}_labels"} <= set(array_names(path)) for split in SPLITS
    )


def read_medmnist(
    path: str | Path,
    *,
    axis: str = "axial",
    slice_at: int | None = None,
    class_names: Sequence[str] | None = None,
    max_pixels: int = Item.MAX_PIXELS,
) -> DomainData:
    """All rows of a MedMNIST file, with the splits it states.

    Args:
        path: the .npz.
        axis: of volumes, which of their axes (D, H, W) is cut: "axial", "coronal", "sagittal".
        slice_at: which slice along it; by default the middle one.
        class_names: names in the order of the labels; by default those that MedMNIST gives a file of this name
            ("bloodmnist.npz", "bloodmnist_64.npz"), else "class 0", "class 1", ...
        max_pixels: most pixels of an image, or voxels of a volume.

    Raises:
        DataError: damaged, pickled objects inside, sizes that disagree, or fewer than two classes.
        ConfigError: `class_names` are fewer than the classes.
    """
    path = Path(path)
    known = medmnist_facts(path)
    splits = [split for split in SPLITS if f"{split}_images" in array_names(path)]
    labels = {split: _labels(path, split) for split in splits}
    is_multilabel = any(values.shape[1] > 1 for values in labels.values())
    names = _class_names(path, labels, class_names or known.get("labels"), is_multilabel)
    items = []
    for split in splits:
        size = math.prod(array_shape(path, f"{split}_images")[1:4])
        if size > max_pixels:
            raise LimitError.too_large(f"{path}: {split}_images has rows of {size} values", max_pixels)
        items += _items(path, split, labels[split], is_multilabel, _slice(path, split, axis, slice_at))
    data = DomainData(
        items=items,
        class_names=names,
        load=load_row,
        kind="multilabel" if is_multilabel else "labels",
        name=path.stem,
        licence=LICENCE if known else "unknown",
    )
    return check_items(data, path)


def load_row(item: Item) -> Decoded:
    """One image (H, W, 3): uint8, or float32 in 0..1 where the file holds deeper values."""
    path, decode = Path(item.source), item.decode
    row = array_row(path, decode["array"], int(decode["index"]))
    if "slice" in decode:
        row = np.take(row, int(decode["slice"]), axis=VOLUME_AXES[decode["axis"]])  # (H, W)
    image = row if row.ndim == 3 and row.shape[-1] == 3 else np.repeat(row.reshape(*row.shape[:2], 1), 3, axis=2)
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return _unit(image, item)


def medmnist_facts(path: Path) -> dict[str, Any]:
    """ "labels" and "modality" of a MedMNIST set, told from the file's name, or an empty dict."""
    return _known_sets().get(re.sub(r"_\d+$", "", path.stem.lower()), {})


@lru_cache(maxsize=1)
def _known_sets() -> dict[str, dict[str, Any]]:
    return json.loads(LABELS_FILE.read_text(encoding="utf-8"))


def _labels(path: Path, split: str) -> np.ndarray:
    """(N, 1) or (N, C) integers."""
    if f"{split}_labels" not in array_names(path):
        raise DataError(f"{path}: has {split}_images but no {split}_labels; give the file as MedMNIST publishes it")
    labels = read_array(path, f"{split}_labels")
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iuf" or (labels.ndim == 2 and not labels.shape[1]):
        raise DataError(
            f"{path}: {split}_labels has shape {labels.shape} of {labels.dtype}; "
            "whole numbers (N,) or (N, C) are needed"
        )
    labels = labels.reshape(len(labels), labels.shape[1] if labels.ndim == 2 else 1)
    images = array_shape(path, f"{split}_images")
    if images[0] != len(labels):
        raise DataError(f"{path}: {images[0]} {split}_images but {len(labels)} {split}_labels; copy the file again")
    if not np.array_equal(labels, np.round(labels)) or (labels.size and labels.min() < 0):
        raise DataError(f"{path}: {split}_labels must be whole numbers from 0; they are {labels.dtype}")
    if labels.size and labels.max() >= max(MOST_CLASSES, len(labels)):
        raise DataError(
            f"{path}: {split}_labels reach {float(labels.max()):.0f} in {len(labels)} rows; number the classes from 0"
        )
    if labels.shape[1] > 1 and labels.size and labels.max() > 1:
        raise DataError(f"{path}: {split}_labels has {labels.shape[1]} columns with values above 1; 0 and 1 are needed")
    return labels.astype(np.int64)


def _class_names(path: Path, labels: dict[str, np.ndarray], given: Sequence[str] | None, is_multilabel: bool):
    widths = {values.shape[1] for values in labels.values()}
    if is_multilabel and len(widths) > 1:
        raise DataError(f"{path}: splits have different numbers of label columns {sorted(widths)}; copy the file again")
    largest = max((int(values.max(initial=0)) for values in labels.values()), default=0)
    count = widths.pop() if is_multilabel else largest + 1
    if given is None:
        return tuple(f"class {i}" for i in range(count))
    if len(given) < count:
        raise ConfigError(
            f"option class_names: {len(given)} names for the {count} classes of {path}; give one per class"
        )
    return tuple(given)


def _slice(path: Path, split: str, axis: str, slice_at: int | None) -> dict[str, Any]:
    """The part of `decode` that picks a slice, empty for sets of images."""
    shape = array_shape(path, f"{split}_images")
    is_volume = len(shape) == 4 and shape[-1] != 3
    if not is_volume and len(shape) not in (3, 4):
        raise DataError(f"{path}: {split}_images has shape {shape}; (N, H, W), (N, H, W, 3) or (N, D, H, W) is needed")
    if not is_volume:
        if slice_at is not None:
            raise ConfigError(f"option slice: {path} holds images, not volumes; omit it")
        return {}
    depth = shape[1 + VOLUME_AXES[axis]]
    position = depth // 2 if slice_at is None else slice_at
    if not 0 <= position < depth:
        raise ConfigError(
            f"option slice={slice_at}: {path} has slices 0 to {depth - 1} along its {axis} axis; give one of these"
        )
    return {"axis": axis, "slice": position}


def _items(path: Path, split: str, labels: np.ndarray, is_multilabel: bool, cut: dict[str, Any]) -> list[Item]:
    array = f"{split}_images"
    shape = array_shape(path, array)[1:]
    items = []
    for index, row in enumerate(iterate_rows(path, array)):
        digest = hashlib.sha256(f"{shape}".encode() + row).hexdigest()
        decode = {"array": array, "index": index, "digest": digest, **cut}
        given = labels[index].tolist()
        target = Labels(tuple(map(float, given))) if is_multilabel else Label(given[0])
        items.append(Item(id=f"{split}/{index:06d}", source=path, decode=decode, target=target, split=split))
    return items


def _unit(image: np.ndarray, item: Item) -> np.ndarray:
    """float32 in 0..1: whole numbers by the range of their type, floats in 0..1 as they are."""
    if np.issubdtype(image.dtype, np.integer) or image.dtype == bool:
        limits = (0, 1) if image.dtype == bool else (0, np.iinfo(image.dtype).max)
        return np.clip(image.astype(np.float32) / limits[1], 0, 1)
    if not np.isfinite(image).all():
        raise DataError(f"{item.source}: {item.id} holds NaN or infinity; remove the row")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / (high - low if high > low else 1.0)
    return image.astype(np.float32)

"""What one data set of a config is: a path or a file of items, one split of it, some classes, few of them or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....core.contracts import DomainData
from ....core.data import FileHashes, assign_splits
from ....core.errors import ConfigError, DataError
from .classes import choose_classes
from .detection import read_detection
from .few_shot import draw_shots
from .items_file import read_items
from .novel import hold_out, split_novel
from .segmentation import read_segmentation

SPLITS = ("train", "val", "test", "all")
CHOICES = ("path", "items_json", "split", "classes", "novel", "shots", "seed", "split_seed")
"""Options of a data set of a config that say what it is."""
READERS = {"boxes": read_detection, "masks": read_segmentation}


def chosen_data(
    kind: str,
    *,
    path: str | None = None,
    items_json: str | None = None,
    split: str = "train",
    classes: Sequence[str] | str | None = None,
    novel: str | Sequence[str] | None = None,
    shots: int | None = None,
    seed: int = 0,
    split_seed: int = 0,
    surplus: str = "ignore",
    **options: Any,
) -> DomainData:
    """The items of one split.

    Splits that the data give are kept where they give two or more; else train, val and test are made from `split_seed`,
    the same for every data set of a config. A file of items has the splits that were written.

    Args:
        kind: "boxes" or "masks".
        path: of a set to read.
        items_json: of a set that was read and split before (`write_items`), instead of `path`.
        split: "train", "val", "test", or "all".
        classes: names, comma-separated or a list: which classes, in which order.
        novel: novel classes, see `split_novel`; train and val then have the base classes alone.
        shots: K examples per class in train.
        seed: of the drawing of shots.
        split_seed: of the splits.
        surplus: see `draw_shots`.
        options: of the reader.

    Raises:
        ConfigError: neither path nor items, both, an unknown split, or classes the data do not have.
        DataError: the data cannot be used, or the split is empty.
    """
    if (path is None) == (items_json is None):
        raise ConfigError("a data set of a config needs either path=... (data) or items_json=... (a file of items)")
    if split not in SPLITS:
        raise ConfigError(f"split '{split}': give one of {', '.join(SPLITS)}")
    data = READERS[kind](path, **options) if items_json is None else read_items(items_json)
    if data.kind != kind:
        raise DataError(f"{items_json}: holds {data.kind}, but {kind} are needed; give a file of the right task")
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",") if name.strip()]
    if classes is not None:
        data = choose_classes(data, classes)
    if split != "all" and items_json is None and not _is_split(data, split, novel):
        data = assign_splits(data, seed=split_seed, hashes=FileHashes())
    if novel is not None:
        parts = split_novel(data.class_names, novel, data.frequency)
        data = hold_out(data, parts)
        if split in ("train", "val"):
            data = choose_classes(data, parts.base)
    if split == "train":
        data = draw_shots(data, shots, seed, surplus=surplus)
    if split != "all":
        data = data.with_items([item for item in data.split(split) if split == "train" or not item.unreviewed])
    if not data.items:
        raise DataError(f"{path or items_json}: its split '{split}' is empty; give another split")
    return data


def choices_among(options: dict[str, Any], metainfo: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of `CHOICES` among the options of a data set, which then lack them.

    Args:
        metainfo: of mmengine, whose "classes" are the choice where the options name none.
    """
    chosen = {name: options.pop(name) for name in CHOICES if name in options}
    if chosen.get("classes") is None:
        chosen["classes"] = (metainfo or {}).get("classes")
    return chosen


def _is_split(data: DomainData, split: str, novel: Any) -> bool:
    given = {item.split for item in data.items if item.split}
    return split in given and len(given) > 1 and (novel is None or "test" in given)

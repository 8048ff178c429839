"""The data sets that a user's config names, read by mmdet's or mmseg's own classes, as one set with splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from ....core.contracts.domain import DomainData, Item
from ....core.contracts.errors import ConfigError, DataError
from ....core.data.formats import loader
from ....core.data.images import IMAGE
from ....core.data.tables import parse_json
from ..data.classes import check_names
from ..data.masks import MaskReader
from .walking import Node, inner_dataset

KINDS = {"detection": "boxes", "segmentation": "masks"}
MOST_VALUES = 256


def read_config_data(config: Mapping[str, Any], task: str) -> DomainData | None:
    """Train, val and test as the config's loaders name them; None where it has no loader for training, or names
    "sample".

    Without a test loader val is tested on. Where val and test are one data set it is test.

    Raises:
        ConfigError: classes of the config that its annotations do not have, with both lists.
        DataError: a file that is not there, or splits with different classes.
    """
    named = {split: _dataset_of(config, f"{split}_dataloader") for split in ("train", "val", "test")}
    if named["train"] is None or any(_is_sample(dataset) for dataset in named.values() if dataset):
        return None
    if named["test"] is None:
        named["test"], named["val"] = named["val"], None
    if named["val"] is not None and _files(named["val"]) == _files(named["test"]):
        named["val"] = None
    parts = {split: _read(dataset, task, split, config) for split, dataset in named.items() if dataset is not None}
    names = {split: part.class_names for split, part in parts.items()}
    check_names(names["train"], names.get("test"))
    first = parts["train"]
    return replace(first, items=[item for part in parts.values() for item in part.items])


def _dataset_of(config: Mapping[str, Any], loader_name: str) -> Node | None:
    loader_config = config.get(loader_name)
    dataset = loader_config.get("dataset") if isinstance(loader_config, Mapping) else None
    return inner_dataset(dataset) if dataset else None


def _is_sample(dataset: Node) -> bool:
    return dataset.get("path") == "sample"


def _files(dataset: Node | None) -> tuple | None:
    keys = ("type", "data_root", "ann_file", "data_prefix", "path", "split", "items_json")
    return None if dataset is None else tuple(str(dataset.get(key)) for key in keys)


def _read(dataset: Node, task: str, split: str, config: Mapping[str, Any]) -> DomainData:
    built = _built(dataset, config)
    names = tuple(built.metainfo.get("classes") or ())
    if not names:
        raise ConfigError(f"{split}_dataloader: its data set has no metainfo.classes; name the classes there")
    _check_annotations(dataset, names)
    root = str(dataset.get("data_root") or "")
    samples = [built.get_data_info(place) for place in range(len(built))]
    make = _boxes if task == "detection" else _mask
    items = [make(sample, f"{split}/{_id(sample, root)}").with_(split=split) for sample in samples]
    return DomainData(
        items=items,
        class_names=names,
        load=loader((IMAGE,)),
        kind=KINDS[task],
        name=Path(root).name or str(dataset.get("type")),
        load_mask=_reader(samples, built, len(names)) if task == "segmentation" else None,
    )


def _built(dataset: Node, config: Mapping[str, Any]) -> Any:
    """The data set without its transforms, every image of it."""
    from mmengine.registry import init_default_scope

    from ....core.engine.owned_faults import named_faults
    from ....registry import DATASETS

    init_default_scope(config.get("default_scope", "mmdet"))
    whole = {**dataset, "pipeline": [], "test_mode": True}
    try:
        with named_faults(), redirect_stdout(StringIO()):  # pycocotools prints, and `--json` is stdout too
            return DATASETS.build(whole)
    except OSError as error:
        raise DataError(f"{dataset.get('ann_file') or dataset.get('data_root')}: {error.strerror or error}") from error


def _check_annotations(dataset: Node, names: tuple[str, ...]) -> None:
    """mmdet passes over objects whose class the config does not name, all of them if need be, and says nothing."""
    file = Path(os.path.join(str(dataset.get("data_root") or ""), str(dataset.get("ann_file") or "")))
    if file.suffix != ".json" or not file.is_file():
        return
    content = parse_json(file, file.read_text(encoding="utf-8"))
    listed = content.get("categories") if isinstance(content, dict) else None
    annotated = [str(category.get("name")) for category in listed or ()]
    if annotated and not set(names) <= set(annotated):
        check_names(names, annotated, exact=True)


def _boxes(sample: Node, id_: str) -> Item:
    instances = sample.get("instances") or []
    outlines = tuple(instance.get("mask") or None for instance in instances)
    ignored = tuple(bool(instance.get("ignore_flag")) for instance in instances)
    return Item(
        id=id_,
        source=Path(sample["img_path"]),
        decode=dict(sample.get("decode") or {}),
        boxes=tuple(tuple(map(float, instance["bbox"])) for instance in instances),
        box_labels=tuple(int(instance["bbox_label"]) for instance in instances),
        segments=outlines if any(outlines) else None,
        ignored=ignored if any(ignored) else None,
        size=(int(sample["width"]), int(sample["height"])) if "width" in sample else None,
        facts=sample.get("facts") or None,
    )


def _mask(sample: Node, id_: str) -> Item:
    mask = sample.get("seg_map_path")
    if not mask:
        raise DataError(f"{sample['img_path']}: the config's data set names no mask for it; check its data_prefix")
    return Item(id=id_, source=Path(sample["img_path"]), decode=dict(sample.get("decode") or {}), mask=Path(mask))


def _reader(samples: list[Node], built: Any, classes: int) -> MaskReader:
    """What stored numbers mean: as they are, one less (`reduce_zero_label`), or by the data set's map."""
    given = samples[0].get("mask_table") if samples else None
    if given:
        return MaskReader.of(given)
    shift = 1 if getattr(built, "reduce_zero_label", False) else 0
    label_map = getattr(built, "label_map", None) or {}
    values = {stored: int(label_map.get(stored - shift, stored - shift)) for stored in range(shift, MOST_VALUES)}
    return MaskReader(values={stored: place for stored, place in values.items() if 0 <= place < classes})


def _id(sample: Node, root: str) -> str:
    path = str(sample["img_path"])
    return os.path.relpath(path, root) if root and path.startswith(root) else Path(path).name

"""The data sets that a user's config names, read by mmdet's or mmseg's own classes, as one set with splits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData
from ....core.data import IMAGE, CocoFile, VocSet, loader
from ....core.errors import ConfigError, DataError
from ....core.runtime import check_regular, read_json
from ..data.classes import check_names, choose_classes
from .kinds import ConfigKind
from .pipelines import Node, inner_datasets, texts_in


def read_config_data(config: Mapping[str, Any], kind: ConfigKind) -> DomainData | None:
    """Train, val and test as the config's loaders name them; None where it has no loader for training, or names
    "sample".

    Without a test loader val is tested on. Where val and test are one data set it is test.

    Raises:
        ConfigError: classes of the config that its annotations do not have, with both lists.
        DataError: a file that is not there, or splits with different classes.
    """
    named = {split: _datasets_of(config, f"{split}_dataloader") for split in ("train", "val", "test")}
    if not named["train"] or any(_is_sample(dataset) for datasets in named.values() for dataset in datasets):
        return None
    if not named["test"]:
        named["test"], named["val"] = named["val"], []
    if _files(named["val"]) == _files(named["test"]):
        named["val"] = []
    return _one([_read(dataset, kind, split, config) for split, datasets in named.items() for dataset in datasets])


def _one(parts: list[DomainData]) -> DomainData:
    """The parts as one set, with the classes of the first in their order."""
    first, *others = parts
    items, ids = list(first.items), {item.id for item in first.items}
    for part in others:
        check_names(first.class_names, part.class_names)
        part = choose_classes(part, first.class_names)
        if part.load_mask is not None and part.load_mask.as_data() != first.load_mask.as_data():
            raise ConfigError(
                "the config's data sets use the same mask values for different classes (reduce_zero_label, "
                "label_map, or the order of metainfo.classes); make these the same"
            )
        for item in part.items:
            number, id_ = 2, item.id
            while item.id in ids:  # folders of one name in several roots
                item, number = item.with_(id=f"{id_} ({number})"), number + 1
            ids.add(item.id)
            items.append(item)
    return replace(first, items=items)


def _datasets_of(config: Mapping[str, Any], loader_name: str) -> list[Node]:
    loader_config = config.get(loader_name)
    dataset = loader_config.get("dataset") if isinstance(loader_config, Mapping) else None
    return inner_datasets(dataset) if dataset else []


def _is_sample(dataset: Node) -> bool:
    return dataset.get("path") == "sample"


def _files(datasets: list[Node]) -> list[tuple]:
    keys = ("type", "data_root", "ann_file", "data_prefix", "path", "split", "items_json")
    return [tuple(str(dataset.get(key)) for key in keys) for dataset in datasets]


def _read(dataset: Node, kind: ConfigKind, split: str, config: Mapping[str, Any]) -> DomainData:
    built = _built(dataset, config.get("default_scope") or kind.scope)
    names = tuple(built.metainfo.get("classes") or ())
    if not names:
        raise ConfigError(f"{split}_dataloader: its data set has no metainfo.classes; name the classes there")
    listed = _annotated(dataset)
    # mmdet passes over objects whose class the config does not name, all of them if need be, and says nothing.
    if listed and not set(names) <= set(listed):
        check_names(names, listed, exact=True)
    root = str(dataset.get("data_root") or "")
    samples = [built.get_data_info(place) for place in range(len(built))]
    _check_outlined(samples, names)
    items = [kind.item(sample, f"{split}/{_id(sample, root)}").with_(split=split) for sample in samples]
    data = DomainData(
        items=items,
        class_names=tuple(name for name in listed if name in names)
        if listed and hasattr(built, "cat2label")
        else names,
        load=loader((IMAGE,)),
        kind=kind.data_kind,
        name=Path(root).name or str(dataset.get("type")),
        load_mask=kind.mask_reader(samples, built, len(names)),
    )
    return choose_classes(data, names)  # mmdet numbers classes in the order of the annotation, whatever the config's


def _built(dataset: Node, scope: str) -> Any:
    """The data set without its transforms, every image of it."""
    from mmengine.registry import init_default_scope

    from ....core.tasks import named_faults
    from ....registry import DATASETS

    _check_places(dataset)
    init_default_scope(scope)
    whole = {**dataset, "pipeline": [], "test_mode": True}
    with named_faults(), redirect_stdout(StringIO()):  # pycocotools prints, and `--json` is stdout too
        try:
            return DATASETS.build(whole)
        except OSError as error:
            place = error.filename or dataset.get("ann_file") or dataset.get("data_root")
            reason = error.strerror or error
            raise DataError(f"{place}: {reason}; the config names it: correct its data_root, or give --data") from error


def _check_places(dataset: Node) -> None:
    """Refuse a device, a pipe or a socket, which mm's readers would read without end."""
    root = str(dataset.get("data_root") or "")
    for value in texts_in(dataset):
        place = Path(root, value)
        if os.path.exists(place) and not os.path.isdir(place):
            check_regular(place, "the config names it: correct the config")


def _annotated(dataset: Node) -> list[str]:
    """The classes that a COCO file lists, in its order; none of other annotations."""
    file = Path(os.path.join(str(dataset.get("data_root") or ""), str(dataset.get("ann_file") or "")))
    if file.suffix != ".json" or not file.is_file():
        return []
    content = read_json(file)
    if not isinstance(content, dict) or not content.get("categories"):
        return []
    return [category.name for category in CocoFile(file, file.parent, content).categories().values()]


def _check_outlined(samples: list[Node], names: tuple[str, ...]) -> None:
    """The same of VOC's XML files, which list no classes: not one object has a class of the config's."""
    files = [sample["xml_path"] for sample in samples if sample.get("xml_path")]
    if not files or any(sample.get("instances") for sample in samples):
        return
    annotated = {name for file in files for name in VocSet.names_in(Path(file))}
    if annotated:
        check_names(names, sorted(annotated), exact=True)


def _id(sample: Node, root: str) -> str:
    path = str(sample["img_path"])
    return os.path.relpath(path, root) if root and path.startswith(root) else Path(path).name

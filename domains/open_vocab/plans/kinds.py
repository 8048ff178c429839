"""What configs of detection and of segmentation do differently: their data sets, their truth, what it becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....core.contracts import Boxes, Item, Mask
from ....core.errors import DataError
from ..data.boxes import annotated_boxes
from ..data.masks import MaskReader, annotated_mask

MOST_VALUES = 256


class ConfigKind(ABC):
    """Base of kinds of configs; each task has one.

    Class attributes:
        task: the task's name.
        scope: `default_scope` of such configs: the package they are written for.
        dataset: type of our data set in their loaders.
        data_kind: `DomainData.kind` of such a set.
        truth_loaders: their transforms that read annotations -> ours in their place.
        kept: options of a config's data set that ours takes too.
    """

    task: ClassVar[str]
    scope: ClassVar[str]
    dataset: ClassVar[str]
    data_kind: ClassVar[str]
    truth_loaders: ClassVar[Mapping[str, str]] = {}
    kept: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def teaches(self, item: Item) -> bool:
        """Whether an image shows a class, as far as its annotation tells."""

    @abstractmethod
    def item(self, sample: Mapping[str, Any], id_: str) -> Item:
        """A sample of mmdet's or mmseg's data set as an item."""

    def mask_reader(
        self, samples: Sequence[Mapping[str, Any]], dataset: Any, classes: int
    ) -> Callable[[Item], np.ndarray] | None:
        """`DomainData.load_mask` of a data set of mm's; None where there are no masks."""
        return None


class DetectionConfigs(ConfigKind):
    """Configs of mmdet."""

    task = "detection"
    scope = "mmdet"
    dataset = "vladapt.DetectionDataset"
    data_kind = "boxes"
    kept = ("filter_cfg",)

    def teaches(self, item: Item) -> bool:
        return bool(annotated_boxes(item).labels)

    def item(self, sample: Mapping[str, Any], id_: str) -> Item:
        instances = sample.get("instances") or []
        outlines = tuple(instance.get("mask") or None for instance in instances)
        ignored = tuple(bool(instance.get("ignore_flag")) for instance in instances)
        boxes = Boxes(
            boxes=tuple(tuple(map(float, instance["bbox"])) for instance in instances),
            labels=tuple(int(instance["bbox_label"]) for instance in instances),
            segments=outlines if any(outlines) else None,
            ignored=ignored if any(ignored) else None,
            size=(int(sample["width"]), int(sample["height"])) if "width" in sample else None,
            facts=sample.get("facts") or None,
        )
        return Item(id=id_, source=Path(sample["img_path"]), decode=dict(sample.get("decode") or {}), target=boxes)


class SegmentationConfigs(ConfigKind):
    """Configs of mmsegmentation."""

    task = "segmentation"
    scope = "mmseg"
    dataset = "vladapt.SegmentationDataset"
    data_kind = "masks"
    truth_loaders: ClassVar = {"LoadAnnotations": "vladapt.LoadSegmentation"}

    def teaches(self, item: Item) -> bool:
        """A mask is not read for this: one without a list of its classes may show any."""
        return any(annotated_mask(item).labels or (True,))

    def item(self, sample: Mapping[str, Any], id_: str) -> Item:
        mask = sample.get("seg_map_path")
        if not mask:
            raise DataError(f"{sample['img_path']}: the config's data set names no mask for it; check its data_prefix")
        decode = dict(sample.get("decode") or {})
        return Item(id=id_, source=Path(sample["img_path"]), decode=decode, target=Mask(Path(mask)))

    def mask_reader(self, samples: Sequence[Mapping[str, Any]], dataset: Any, classes: int) -> MaskReader:
        """What stored numbers mean: as they are, one less (`reduce_zero_label`), or by the data set's map."""
        given = samples[0].get("mask_table") if samples else None
        if given:
            return MaskReader.of(given)
        shift = 1 if getattr(dataset, "reduce_zero_label", False) else 0
        label_map = getattr(dataset, "label_map", None) or {}
        values = {stored: int(label_map.get(stored - shift, stored - shift)) for stored in range(shift, MOST_VALUES)}
        return MaskReader(values={stored: place for stored, place in values.items() if 0 <= place < classes})


DETECTION, SEGMENTATION = DetectionConfigs(), SegmentationConfigs()
KINDS = (DETECTION, SEGMENTATION)

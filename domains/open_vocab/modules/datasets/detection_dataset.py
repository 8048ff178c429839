"""Boxes as a data set of mmdet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmdet.datasets.base_det_dataset import BaseDetDataset

from .....core.contracts import Boxes, DomainData, Item
from .....core.errors import DataError
from .....registry import DATASETS
from ...data.boxes import annotated_boxes
from ...data.chosen import choices_among, chosen_data
from ...data.drawn_anew import DrawnAnew


@DATASETS.register_module()
class DetectionDataset(BaseDetDataset):
    """A set that `read_detection` reads, or a file of items, for mmdet's pipelines.

    Class names come from the data and are `metainfo["classes"]`. A sample has img_path, decode (for
    `vladapt.LoadItemImage`), img_id, item_id, height, width, facts, and instances with bbox, bbox_label, ignore_flag
    and, where the set has outlines, mask. For `vladapt.OpenVocabDetectionMetric`, PackDetInputs must keep `instances`
    and `facts` in its meta_keys.

    Args:
        path: as for `read_detection`.
        items_json: a file of items, instead of `path`.
        split: "train", "val", "test" or "all".
        classes: which classes, in which order.
        novel: novel classes: "coco", "lvis" or names; train and val then have the base classes alone.
        shots: K objects per class in train.
        seed: of the drawing of shots.
        split_seed: of the splits, where the data give none.
        surplus: "ignore" or "keep", see `draw_shots`.
        options: of mmdet's BaseDetDataset: pipeline, test_mode, filter_cfg (filter_empty_gt, min_size), ...

    Raises:
        ConfigError, DataError: as `chosen_data`.
    """

    def __init__(self, *args: Any, surplus: str = "ignore", metainfo: dict[str, Any] | None = None, **options: Any):
        data = chosen_data("boxes", surplus=surplus, **choices_among(options, metainfo))
        self._items = [_sized(item, data) for item in data.items]
        self._drawn = DrawnAnew.of(data)
        metainfo = {**(metainfo or {}), "classes": tuple(data.class_names)}
        super().__init__(*args, metainfo=metainfo, **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One dict per image."""
        items, self._items = self._items, []
        with_masks = any(item.target.segments for item in items)
        return [self._sample(number, item, with_masks) for number, item in enumerate(items)]

    def prepare_data(self, idx: int) -> Any:
        """A sample through the transforms; another one in its place where it is drawn anew."""
        sample = self.get_data_info(idx)
        if self._drawn is not None and not self.test_mode:
            item = self._drawn(sample["img_id"])
            sample |= self._sample(sample["img_id"], item, "mask" in (sample["instances"] or [{}])[0])
        return self.pipeline(sample)

    def filter_data(self) -> list[dict[str, Any]]:
        """Without images that `filter_cfg` refuses, in training."""
        if self.test_mode or not self.filter_cfg:
            return self.data_list
        empty_too = not self.filter_cfg.get("filter_empty_gt", False)
        min_size = self.filter_cfg.get("min_size", 0)
        kept = [
            sample
            for sample in self.data_list
            if (empty_too or any(not instance["ignore_flag"] for instance in sample["instances"]))
            and min(sample["width"], sample["height"]) >= min_size
        ]
        if not kept:
            raise DataError(f"filter_cfg {dict(self.filter_cfg)} keeps none of {len(self.data_list)} images; relax it")
        return kept

    def _sample(self, number: int, item: Item, with_masks: bool) -> dict[str, Any]:
        width, height = item.target.size
        sample = {
            "img_path": str(item.source),
            "decode": dict(item.decode),
            "img_id": number,
            "item_id": item.id,
            "seg_map_path": None,
            "height": int(height),
            "width": int(width),
            "facts": item.target.facts or {},
            "instances": _instances(item.target, with_masks),
        }
        if self.return_classes:
            sample |= {
                "text": self.metainfo["classes"],
                "caption_prompt": self.caption_prompt,
                "custom_entities": True,
            }
        return sample


def _sized(item: Item, data: DomainData) -> Item:
    """With boxes, and with the size of its image."""
    boxes = annotated_boxes(item)
    return item.with_(target=boxes if boxes.size else replace(boxes, size=data.load(item).shape[1::-1]))


def _instances(boxes: Boxes, with_masks: bool) -> list[dict[str, Any]]:
    none = (None,) * len(boxes.boxes)
    instances = []
    for box, label, outline, ignored in zip(
        boxes.boxes, boxes.labels, boxes.segments or none, boxes.ignored or none, strict=True
    ):
        instance = {"bbox": list(box), "bbox_label": label, "ignore_flag": int(bool(ignored))}
        if with_masks:
            instance["mask"] = outline if outline is not None else []  # mmdet ignores an object whose outline is empty
        instances.append(instance)
    return instances

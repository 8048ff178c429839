"""Masks as a data set of mmseg."""

from __future__ import annotations

from typing import Any

from mmseg.datasets.basesegdataset import BaseSegDataset

from .....core.contracts import Item
from .....core.errors import DataError
from .....registry import DATASETS
from ...data.chosen import choices_among, chosen_data
from ...data.drawn_anew import DrawnAnew
from ...data.masks import MaskReader, annotated_mask


@DATASETS.register_module()
class SegmentationDataset(BaseSegDataset):
    """A set that `read_segmentation` reads, or a file of items, for mmseg's pipelines.

    Class names come from the data and are `metainfo["classes"]`. A sample has img_path, decode (for
    `vladapt.LoadItemImage`), item_id and what `vladapt.LoadSegmentation` decodes the mask by; mmseg's own
    LoadAnnotations does not know the set's table of values.

    Args:
        path: as for `read_segmentation`.
        items_json: a file of items, instead of `path`.
        split: "train", "val", "test" or "all".
        classes: which classes, in which order; names of the stored numbers where nothing names them.
        novel: novel classes: "coco", "lvis" or names; train and val then have the base classes alone.
        shots: K images per class in train.
        seed: of the drawing of shots.
        split_seed: of the splits, where the data give none.
        reduce_zero_label: 0 is ignored and 1 the first class.
        background: whether pixels outside all outlines are a class, for COCO JSON.
        options: of mmseg's BaseSegDataset: pipeline, test_mode, ...

    Raises:
        ConfigError, DataError: as `chosen_data`.
    """

    def __init__(
        self,
        reduce_zero_label: bool = False,
        background: bool = True,
        metainfo: dict[str, Any] | None = None,
        **options: Any,
    ):
        choice = choices_among(options, metainfo)
        file, named = choice.get("items_json"), choice["classes"]
        if file is None:  # the reader is told of classes, whose stored numbers they may name
            named = [name.strip() for name in named.split(",") if name.strip()] if isinstance(named, str) else named
            reading = {"class_names": named, "reduce_zero_label": reduce_zero_label, "background": background}
            choice |= {**reading, "classes": None}
        data = chosen_data("masks", **choice)
        if not isinstance(data.load_mask, MaskReader):
            raise DataError(
                f"{file or choice.get('path')}: its items have no table of mask values; write the file again"
            )
        self._items, self._table = data.items, data.load_mask.as_data()
        self._drawn = DrawnAnew.of(data)
        metainfo = {**(metainfo or {}), "classes": tuple(data.class_names)}
        super().__init__(metainfo=metainfo, **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One dict per image."""
        items, self._items = self._items, []
        return [{**self._sample(item), "row": row} for row, item in enumerate(items)]

    def prepare_data(self, idx: int) -> Any:
        """A sample through the transforms; another one in its place where it is drawn anew."""
        sample = self.get_data_info(idx)
        if self._drawn is not None and not self.test_mode:
            sample |= self._sample(self._drawn(sample["row"]))
        return self.pipeline(sample)

    def _sample(self, item: Item) -> dict[str, Any]:
        mask = annotated_mask(item)
        outlines = None if mask.file is not None or mask.outlines is None else dict(vars(mask.outlines))
        return {
            "img_path": str(item.source),
            "decode": dict(item.decode),
            "item_id": item.id,
            "seg_map_path": None if mask.file is None else str(mask.file),
            "mask_table": self._table,
            "outlines": outlines,
            "only": mask.only,
            "label_map": None,
            "reduce_zero_label": False,
            "seg_fields": [],
        }

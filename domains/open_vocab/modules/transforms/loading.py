"""Images and masks of every kind that the project reads, for pipelines of mmdet and mmseg."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from .....core.contracts.domain import Item
from .....core.contracts.errors import ConfigError, DataError
from .....core.contracts.targets import Boxes, Mask
from .....core.data.images import decode_image
from .....registry import TRANSFORMS
from ...data.items_file import to_uint8
from ...data.masks import MOST_CLASSES, MaskReader

CHANNELS = ("bgr", "rgb")


@TRANSFORMS.register_module()
class LoadItemImage(BaseTransform):
    """Decode `img_path` as everywhere in vladapt: upright, transparency on white, 16 bits scaled to 8.

    mmcv's LoadImageFromFile differs in each of these. Sets img (H, W, 3), img_shape and ori_shape (H, W).

    Args:
        channels: "bgr", as mmcv loads and data preprocessors with bgr_to_rgb expect, or "rgb".
        to_float32: float32 in 0..255 instead of uint8; keeps what is finer than 8 bits.

    Raises:
        DataError: no sound image.
    """

    def __init__(self, channels: str = "bgr", to_float32: bool = False):
        if channels not in CHANNELS:
            raise ConfigError(f"LoadItemImage: channels '{channels}'; give one of {', '.join(CHANNELS)}")
        self.channels, self.to_float32 = channels, to_float32

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        pixels = decode_image(results["img_path"], dict(results.get("decode") or {}))
        if self.to_float32:
            pixels = pixels.astype(np.float32) * (1 if pixels.dtype == np.uint8 else 255)
        else:
            pixels = to_uint8(pixels)
        results["img"] = np.ascontiguousarray(pixels[..., ::-1] if self.channels == "bgr" else pixels)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    def __repr__(self) -> str:
        return f"LoadItemImage(channels='{self.channels}', to_float32={self.to_float32})"


@TRANSFORMS.register_module()
class LoadSegmentation(BaseTransform):
    """Decode a semantic mask: gt_seg_map (H, W) uint8, 255 for ignored pixels.

    Of `vladapt.SegmentationDataset`, by the set's table of values, colours or outlines. Of any other data set the file
    in seg_map_path: the stored numbers (palette indices, grey values of any depth) after the set's reduce_zero_label
    and label_map.

    Raises:
        DataError: the mask cannot be read, or is of another size than the image.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if results.get("mask_table") is None:
            mask = _foreign(results)
        else:
            mask = _reader(json.dumps(results["mask_table"]))(_item(results))
        shape = results.get("ori_shape")
        if shape is not None and mask.shape != tuple(shape[:2]):
            file, of_mask, of_image = results.get("seg_map_path") or results["img_path"], mask.shape, shape
            raise DataError(
                f"{file}: a mask of {of_mask[1]} x {of_mask[0]} for an image of {of_image[1]} x {of_image[0]}; "
                "make them equal"
            )
        results["gt_seg_map"] = mask
        results.setdefault("seg_fields", []).append("gt_seg_map")
        return results

    def __repr__(self) -> str:
        return "LoadSegmentation()"


@lru_cache(maxsize=8)
def _reader(table: str) -> MaskReader:
    return MaskReader.of(json.loads(table))


def _item(results: dict[str, Any]) -> Item:
    path, outlines = results["seg_map_path"], results.get("outlines")
    target = Mask(
        file=None if path is None else Path(path),
        outlines=None if outlines is None else Boxes(**outlines),
        only=results.get("only"),
    )
    name = str(results.get("item_id", results["img_path"]))
    return Item(id=name, source=Path(results["img_path"]), target=target)


def _foreign(results: dict[str, Any]) -> np.ndarray:
    first = int(bool(results.get("reduce_zero_label")))
    reader = MaskReader(values={index + first: index for index in range(MOST_CLASSES)})
    if results.get("label_map"):
        reader = reader.choose({old: new for old, new in results["label_map"].items() if new != 255})
    target = Mask(Path(results["seg_map_path"]))
    return reader(Item(id=str(results["img_path"]), source=Path(results["img_path"]), target=target))

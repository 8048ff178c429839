"""Images and masks of every kind that the project reads, for pipelines of mmdet and mmseg."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Resize

from .....core.contracts import Boxes, Item, Mask
from .....core.data import IMAGE
from .....core.errors import ConfigError, DataError
from .....core.registry import load_domain
from .....registry import TRANSFORMS
from ...data.items_file import to_uint8
from ...data.masks import MOST_CLASSES, MaskReader
from ...vocabulary import Classes, Vocabulary

CHANNELS = ("bgr", "rgb")
COLOURS = ("red", "green", "blue")


@TRANSFORMS.register_module()
class LoadItemImage(BaseTransform):
    """Decode `img_path` as everywhere in vladapt: upright, transparency on white, 16 bits scaled to 8; what a domain
    decodes itself (`Item.READ_BY` in `decode`), as that does.

    mmcv's LoadImageFromFile differs in each of these. Sets img (H, W, 3), img_shape and ori_shape (H, W).

    Args:
        channels: "bgr", as mmcv loads and data preprocessors with bgr_to_rgb expect, or "rgb".
        to_float32: float32 in 0..255 instead of uint8; keeps what is finer than 8 bits.
        bands: names of the C channels of a raster, in the order in which they stay: img is (H, W, C). None: three.
        fill: of each channel, in 0..255, what pixels without a value are seen as: the mean says least. None: as the
            domain decodes them.

    Raises:
        DataError: no valid image, or one of another number of channels.
    """

    def __init__(
        self,
        channels: str = "bgr",
        to_float32: bool = False,
        bands: Sequence[str] | None = None,
        fill: Sequence[float] | None = None,
    ):
        if channels not in CHANNELS:
            raise ConfigError(f"LoadItemImage: channels '{channels}'; give one of {', '.join(CHANNELS)}")
        self.channels, self.to_float32 = channels, to_float32
        self.bands = None if bands is None else tuple(bands)
        self.fill = fill

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        decode = dict(results.get("decode") or {})
        domain = decode.pop(Item.READ_BY, None)
        pixels = None if domain is None else load_domain(domain).decode(results["img_path"], decode)
        if pixels is None:
            pixels = IMAGE.load(results["img_path"], decode)
        self._check_bands(pixels, decode.get("bands"), results["img_path"])
        if self.to_float32:
            pixels = pixels.astype(np.float32) * (1 if pixels.dtype == np.uint8 else 255)
        else:
            pixels = to_uint8(pixels)
        if self.fill is not None and domain is not None:
            valid = load_domain(domain).valid(results["img_path"], decode)
            pixels = pixels if valid is None else np.where(valid[..., None], pixels, np.array(self.fill, pixels.dtype))
        swap = self.channels == "bgr" and self.bands is None
        results["img"] = np.ascontiguousarray(pixels[..., ::-1] if swap else pixels)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results

    def _check_bands(self, pixels: np.ndarray, asked: str | None, path: str) -> None:
        """Raise DataError of other bands than the model's."""
        others = self.bands is not None and asked is not None and tuple(asked.split(",")) != self.bands
        if others or pixels.shape[-1] != len(self.bands or COLOURS):
            has = f"is read by the bands {asked}" if others else f"has {pixels.shape[-1]} channels"
            reads = ", ".join(self.bands or COLOURS)
            raise DataError(f"{path}: {has}, but the model reads {reads}; give these bands")

    def __repr__(self) -> str:
        return f"LoadItemImage(channels='{self.channels}', to_float32={self.to_float32}, bands={self.bands})"


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
    return Item(id=name, source=Path(results["img_path"]), decode=dict(results.get("decode") or {}), target=target)


def _foreign(results: dict[str, Any]) -> np.ndarray:
    first = int(bool(results.get("reduce_zero_label")))
    reader = MaskReader(values={index + first: index for index in range(MOST_CLASSES)})
    if results.get("label_map"):
        reader = reader.choose({old: new for old, new in results["label_map"].items() if new != 255})
    target = Mask(Path(results["seg_map_path"]))
    return reader(Item(id=str(results["img_path"]), source=Path(results["img_path"]), target=target))


@TRANSFORMS.register_module()
class ClassPrompt(BaseTransform):
    """Puts the class names into each sample as `text`, told apart by `custom_entities`: no noun phrases are searched.

    mmdet's CocoDataset does the same with `return_classes=True`; this works for any data set. Before
    `mmdet.PackDetInputs` its `meta_keys` must have `text` and `custom_entities`; after it nothing is to be done.

    Args:
        classes: names in the order of the labels, as for `Vocabulary.of`; None takes the `text` that a data set gives.

    Raises:
        ConfigError: no names are given, and the sample has no `text`.
    """

    def __init__(self, classes: Classes | None = None):
        self.names = None if classes is None else Vocabulary.of(classes, "name").names

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        packed = results.get("data_samples")
        given = results.get("text") if packed is None else packed.get("text")
        prompt = {"text": self.names or self._listed(given), "custom_entities": True}
        if packed is None:
            return {**results, **prompt}
        packed.set_metainfo(prompt)
        return results

    def _listed(self, text: Any) -> tuple[str, ...]:
        if not text:
            raise ConfigError("ClassPrompt: the data set gives no names; name them: classes='a, b, c'")
        if isinstance(text, str):
            return tuple(name.strip() for name in text.split(".") if name.strip())
        return tuple(text.values() if isinstance(text, dict) else text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={self.names})"


@TRANSFORMS.register_module()
class FitImage(Resize):
    """mmdet's Resize, with boxes, masks and semantic maps, which never enlarges: what fits keeps its size.

    Args:
        scale: (longer, shorter) side in pixels, as of mmdet's Resize with keep_ratio.
        options: of mmdet's Resize, but for keep_ratio, which is True.
    """

    def __init__(self, scale: tuple[int, int], **options: Any):
        super().__init__(scale=tuple(scale), keep_ratio=True, **options)
        self.largest = tuple(scale)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        height, width = results["img"].shape[:2]
        fits = max(height, width) <= max(self.largest) and min(height, width) <= min(self.largest)
        fitting = copy(self)  # transforms of a set run in several threads
        fitting.scale = (width, height) if fits else self.largest
        return super(FitImage, fitting).transform(results)

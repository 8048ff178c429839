"""Mosaics of whole images, by which OWL-ViT sees small things and many at once.

Simple Open-Vocabulary Object Detection with Vision Transformers, 2022, arXiv 2205.06230.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes, autocast_box_type

from .....core.errors import ConfigError
from .....registry import TRANSFORMS

INSTANCE_KEYS = ("gt_bboxes_labels", "gt_ignore_flags")
PIXELWISE_KEYS = ("gt_masks", "gt_seg_map")


@TRANSFORMS.register_module()
class OWLMosaic(BaseTransform):
    """Lays images out as a square of g x g equal tiles, g drawn anew each time.

    Each image is scaled to fit its tile, keeping its proportions, and lies in the tile's upper left corner; boxes,
    labels and ignore flags go with it, and so do classes known to be absent (`facts["absent"]`), but for those that
    another image shows. Masks do not: they are left out. It belongs into the pipeline of `mmdet.MultiImageMixDataset`,
    which gives the other images.

    Args:
        size: side of the square in pixels; divisible by every grid.
        grids: how many tiles a side has.
        probs: how often each of the grids is drawn; they add up to 1.
        pad_val: colour of what no image covers, grey by default, as the image is ordered (mm reads BGR).

    Raises:
        ConfigError: an option is not usable.
    """

    def __init__(
        self,
        size: int = 768,
        grids: Sequence[int] = (1, 2, 3),
        probs: Sequence[float] = (0.4, 0.3, 0.3),
        pad_val: Sequence[float] = (127.5, 127.5, 127.5),
    ):
        uneven = [grid for grid in grids if grid < 1 or size % grid]
        if uneven:
            raise ConfigError(f"OWLMosaic: size={size} does not divide into {uneven[0]} tiles; give a multiple of them")
        if len(probs) != len(grids) or min(probs) < 0 or abs(sum(probs) - 1) > 1e-6:
            raise ConfigError(
                f"OWLMosaic: probs={tuple(probs)} are not the chances of {len(grids)} grids; let them add up to 1"
            )
        self.size, self.grids, self.probs, self.pad_val = size, tuple(grids), tuple(probs), tuple(pad_val)

    def get_indexes(self, dataset) -> list[int]:
        """Draw a grid, and the other images that fill it."""
        grid = int(np.random.choice(self.grids, p=self.probs))
        return np.random.randint(len(dataset), size=grid * grid - 1).tolist()

    @autocast_box_type()
    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """The mosaic of `results` and its `mix_results`, g * g - 1 of them."""
        images = [results, *results.get("mix_results", ())]
        grid = round(len(images) ** 0.5)
        tile = self.size // grid
        canvas = np.empty((self.size, self.size, 3), results["img"].dtype)
        canvas[:] = self.pad_val
        boxes = []
        for place, image in enumerate(images):
            top, left = (tile * step for step in divmod(place, grid))
            pixels, scale = _fitted(image["img"], tile)
            canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            boxes.append(_moved(image["gt_bboxes"], scale, left, top))
        mosaic = {key: value for key, value in results.items() if key not in PIXELWISE_KEYS}
        joined = {key: np.concatenate([image[key] for image in images]) for key in INSTANCE_KEYS if key in results}
        joined |= {"img": canvas, "img_shape": canvas.shape[:2], "gt_bboxes": HorizontalBoxes.cat(boxes)}
        named = {index for image in images for index in (image.get("facts") or {}).get("absent", ())}
        shown = {int(label) for image in images for label in image["gt_bboxes_labels"]}
        return {**mosaic, **joined, "facts": {"absent": sorted(named - shown)} if named else {}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, grids={self.grids}, probs={self.probs})"


def _fitted(image: np.ndarray, tile: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The image scaled so that its longer side is that of a tile, and by how much in x and y."""
    height, width = image.shape[:2]
    share = tile / max(height, width)
    new_width, new_height = (max(1, min(tile, round(side * share))) for side in (width, height))
    return mmcv.imresize(image, (new_width, new_height)), (new_width / width, new_height / height)


def _moved(boxes: HorizontalBoxes, scale: tuple[float, float], left: int, top: int) -> HorizontalBoxes:
    moved = boxes.clone()
    moved.rescale_(scale)
    moved.translate_((left, top))
    return moved


# Simple Open-Vocabulary Object Detection with Vision Transformers, 2022, arXiv 2205.06230.

ATTEMPTS = 100


@TRANSFORMS.register_module()
class OWLRandomCrop(BaseTransform):
    """Cuts a rectangle out of an image, anywhere; objects of which too little is left go. Masks are left out.

    Args:
        area_range: least and most share of the image's area.
        aspect_range: least and most width by height.
        min_area_left: share of a box's own area that must be left of it.

    Raises:
        ConfigError: an option is not usable.
    """

    def __init__(
        self,
        area_range: Sequence[float] = (0.3, 1.0),
        aspect_range: Sequence[float] = (0.75, 1.33),
        min_area_left: float = 0.6,
    ):
        for name, (least, most), limit in (("area_range", area_range, 1.0), ("aspect_range", aspect_range, np.inf)):
            if not 0 < least <= most <= limit:
                raise ConfigError(f"OWLRandomCrop: {name}={(least, most)} is not usable; give least and most, above 0")
        if not 0 <= min_area_left <= 1:
            raise ConfigError(f"OWLRandomCrop: min_area_left={min_area_left} is not usable; give 0 to 1")
        self.area_range, self.aspect_range, self.min_area_left = tuple(area_range), tuple(aspect_range), min_area_left

    @autocast_box_type()
    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """`results` with img, img_shape, boxes, labels and ignore flags of the crop."""
        left, top, right, bottom = self._region(*results["img"].shape[:2])
        boxes = results["gt_bboxes"].clone()
        before = boxes.areas
        boxes.translate_((-left, -top))
        boxes.clip_((bottom - top, right - left))
        kept = (boxes.areas > 0) & (boxes.areas >= self.min_area_left * before)
        cropped = {key: value for key, value in results.items() if key not in ("gt_masks", "gt_seg_map")}
        chosen = {key: results[key][kept.numpy()] for key in INSTANCE_KEYS if key in results}
        image = np.ascontiguousarray(results["img"][top:bottom, left:right])
        return {**cropped, **chosen, "gt_bboxes": boxes[kept], "img": image, "img_shape": image.shape[:2]}

    def _region(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom; the whole image where no rectangle of the kind fits."""
        for _ in range(ATTEMPTS):
            area, aspect = np.random.uniform(*self.area_range) * height * width, np.random.uniform(*self.aspect_range)
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = np.random.randint(width - w + 1), np.random.randint(height - h + 1)
                return left, top, left + w, top + h
        return 0, 0, width, height

    def __repr__(self) -> str:
        options = f"{self.area_range}, aspect_range={self.aspect_range}, min_area_left={self.min_area_left}"
        return f"{type(self).__name__}(area_range={options})"

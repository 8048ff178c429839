"""The random crop of OWL-ViT's training.

Simple Open-Vocabulary Object Detection with Vision Transformers, 2022, arXiv 2205.06230.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import autocast_box_type

from .....core.contracts.errors import ConfigError
from .....registry import TRANSFORMS

ATTEMPTS = 100
INSTANCE_KEYS = ("gt_bboxes_labels", "gt_ignore_flags")


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

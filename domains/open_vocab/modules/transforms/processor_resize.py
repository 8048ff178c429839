"""Resizing as an image processor of transformers does it, with boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmdet.datasets.transforms import Resize

from .....core.errors import ConfigError
from .....registry import TRANSFORMS
from ...hub_models.processor import image_processor


@TRANSFORMS.register_module()
class ProcessorResize(Resize):
    """The resizing of a checkpoint's own processor: to a square, or to a shortest and a longest side, with its filter.

    Pixels stay in 0..255, and float32 where the processor resizes floats. What follows (mean, std, padding) is the
    model's data preprocessor's.

    Args:
        processor: plain data, see `hub_models.processor`; {} for none yet.
        options: of mmdet's Resize, but for its sizes.

    Raises:
        ConfigError: it names no processor.
    """

    def __init__(self, processor: Mapping[str, Any], **options: Any):
        if not processor:
            raise ConfigError("ProcessorResize: no model was named; give one to start from, --start hf:OWNER/NAME")
        super().__init__(scale=(1, 1), keep_ratio=False, **options)
        self.scale = None
        self.processor = image_processor(processor)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = results["img"]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)  # (3, H, W)
        resized = self.processor.resized(pixels).permute(1, 2, 0).numpy()
        height, width = resized.shape[:2]
        results["img"], results["img_shape"] = np.ascontiguousarray(resized), (height, width)
        results["scale"] = (width, height)
        before = (max(image.shape[:2]),) * 2 if self.processor.pads_to_square else image.shape[:2]
        results["scale_factor"] = (width / before[1], height / before[0])
        results["keep_ratio"] = False
        self._resize_bboxes(results)
        self._resize_masks(results)
        self._resize_seg(results)
        self._record_homography_matrix(results)
        return results

    def __repr__(self) -> str:
        return f"ProcessorResize({self.processor.kind})"

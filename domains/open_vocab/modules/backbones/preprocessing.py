"""Pixels as a vision tower wants them, by the data preprocessors of mmdet and mmsegmentation."""

from __future__ import annotations

from typing import Any

from .....core.backbones.load import load_backbone
from .....core.contracts.errors import ConfigError

DIVISOR = 32
"""What sides of a batch are padded to: the largest stride of a pyramid."""


def preprocessor_cfg(spec: str, task: str, **options: Any) -> dict[str, Any]:
    """The `data_preprocessor` of a config: images as mm loads them, BGR in 0..255, become what the tower knows.

    Its towers are not built.

    Args:
        spec: of the backbone, see `load_backbone`.
        task: "detection" for mmdet, "segmentation" for mmsegmentation.
        options: of `mmdet.DetDataPreprocessor` or `mmseg.SegDataPreProcessor`, in place of or beside those chosen here.

    Raises:
        ConfigError: an unknown task, or a spec that cannot be used.
    """
    backbone = load_backbone(spec, device="cpu")
    pixels = {
        "mean": [255 * mean for mean in backbone.image_mean],
        "std": [255 * std for std in backbone.image_std],
        "bgr_to_rgb": True,
    }
    if task == "detection":
        return {"type": "mmdet.DetDataPreprocessor", **pixels, "pad_size_divisor": DIVISOR, "pad_mask": True, **options}
    if task == "segmentation":
        padding = {"pad_val": 0, "seg_pad_val": 255} | ({} if "size" in options else {"size_divisor": DIVISOR})
        return {"type": "mmseg.SegDataPreProcessor", **pixels, **padding, **options}
    raise ConfigError(f"task '{task}' has no data preprocessor; there are: detection, segmentation")

"""Vision towers as backbones of mm models, and what belongs to them: pyramids, pixels, learning rates."""

from .image_part import detection_preprocessor, pixel_cfg, segmentation_preprocessor

__all__ = ["detection_preprocessor", "pixel_cfg", "segmentation_preprocessor"]

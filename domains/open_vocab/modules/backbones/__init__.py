"""Vision towers as backbones of mm models, and what belongs to them: pyramids, pixels, learning rates."""

from .image_part import preprocessor_cfg

__all__ = ["preprocessor_cfg"]

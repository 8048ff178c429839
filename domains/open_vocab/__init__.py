"""Detection and segmentation by the names of things, inside mmdet and mmsegmentation.

Importing this package makes mmdet and mmsegmentation work without a compiled mmcv, so it comes before them in a script.
"""

from .stack import install

install()

from .domain import OpenVocab  # noqa: E402

__all__ = ["OpenVocab"]

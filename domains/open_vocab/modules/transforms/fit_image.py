"""Large images made smaller, small ones left as they are."""

from __future__ import annotations

from copy import copy
from typing import Any

from mmdet.datasets.transforms import Resize

from .....registry import TRANSFORMS


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
        own = copy(self)  # transforms of a set run in several threads
        own.scale = (width, height) if fits else self.largest
        return super(FitImage, own).transform(results)

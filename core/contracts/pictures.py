"""What a person looks at who labels an image: a still, the frames of a clip, a scan in several windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from .domain import Decoded, Item


class ThumbnailStore(Protocol):
    """Small pictures of images, kept by the content keys of these (`core/data/thumbnails.py`).

    Attributes:
        root: the folder of the cache that they lie in.
    """

    root: Path

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of some content keys that have none yet."""

    def find(self, keys: Collection[str]) -> Iterator[tuple[list[str], Any]]:
        """Keys and their thumbnails, some thousands at a time; keys that have none are passed over."""


class Pictured:
    """What every domain offers for labelling by eye.

    Class attributes:
        STILL: what the only still of an image is called.
    """

    STILL: ClassVar[str] = "image"

    def picture(self, item: Item, load: Callable[[Item], Decoded]) -> dict[str, np.ndarray]:
        """The stills of an item by name, (H, W, 3) uint8 each, the one to begin with first.

        By default the decoded image; of a clip, or of several composites of a raster, each by its number; of an image
        of more than three channels the first three.

        Args:
            item: a sample.
            load: decodes it (`DomainData.load`).

        Raises:
            DataError: it cannot be decoded.
        """
        decoded = np.asarray(load(item))
        if decoded.ndim == 3:
            return {self.STILL: self.as_still(decoded)}
        return {f"{number} of {len(decoded)}": self.as_still(frame) for number, frame in enumerate(decoded, start=1)}

    @staticmethod
    def as_still(pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8, or float in 0..1, as (H, W, 3) uint8; the first three of more channels."""
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
        if pixels.dtype != np.uint8:
            pixels = np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
        return np.ascontiguousarray(pixels)

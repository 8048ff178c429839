"""Thumbnails of images: 32 x 32 grey and 8 x 8 colour, made while images are decoded, and kept by content beside the
features, 1.2 KB per image."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..contracts.items import Decoded
from ..runtime.process import keeps
from ..runtime.shards import ShardFolder, ShardWriter

GREY_SIDE, COLOUR_SIDE = 32, 8
GREY_BYTES, COLOUR_BYTES = GREY_SIDE**2, 2 * COLOUR_SIDE**2
BYTES = GREY_BYTES + COLOUR_BYTES + 8
SPACE = "thumbnails 2"
"""Another number makes all anew."""
FLUSH_ROWS, FLUSH_SECONDS = 2048, 30.0


@dataclass(frozen=True)
class Pictures:
    """N thumbnails.

    Args:
        grey: (N, 32, 32) uint8 luminance.
        colour: (N, 8, 8, 2) uint8, Cb and Cr; 128 is grey.
        sides: (N,) shorter side of the image in pixels.
    """

    grey: np.ndarray
    colour: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.grey)

    def take(self, rows: np.ndarray) -> Pictures:
        """Those at some positions."""
        return Pictures(self.grey[rows], self.colour[rows], self.sides[rows])


def thumbnail(pixels: Decoded, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The thumbnail of an image as stored, (1160,) uint8: grey, colour, height and width; None where it has no pixels.

    Args:
        pixels: (H, W, 3) uint8, or float32 in 0..1; of more channels the first three are taken. Of a clip (T, H, W, 3)
            it is the middle frame's colour, and in grey what moves in that frame: what it has beside the mean of the
            frames, since the clips of a camera that stands still share the rest.
        size: height and width of the image, where the pixels are of a reduced version.
    """
    is_clip = pixels.ndim == 4 and len(pixels) > 0
    frame = pixels[len(pixels) // 2] if is_clip else pixels
    if frame.ndim != 3 or frame.shape[-1] < 3 or not frame.size:
        return None
    small = _resized(_image(frame), GREY_SIDE)
    shown = _resized(_image(_moving(pixels)), GREY_SIDE) if is_clip else small
    grey = np.asarray(shown.convert("L"))  # (32, 32)
    colour = np.asarray(small.convert("YCbCr").resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))[..., 1:]
    sizes = np.array(size or frame.shape[:2], dtype="<u4").view(np.uint8)
    return np.concatenate([grey.reshape(-1), colour.reshape(-1), sizes])


def _image(frame: Decoded) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(_levels(frame[..., :3])))


def _levels(pixels: Decoded) -> np.ndarray:
    """As uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)


def _moving(frames: Decoded) -> np.ndarray:
    """(H, W, 3) uint8 the middle frame without the mean of all, around a grey of 128."""
    levels = _levels(frames[..., :3])
    difference = levels[len(levels) // 2] - levels.mean(axis=0, dtype=np.float32)
    return np.rint(np.clip(128 + difference, 0, 255)).astype(np.uint8)


def _resized(image: Image.Image, side: int) -> Image.Image:
    """Means over the area where the image is larger, smooth between pixels where it is smaller."""
    if min(image.size) >= side:
        return image.resize((side, side), Image.Resampling.BOX)
    return image.resize((side, side), Image.Resampling.BICUBIC)


class Thumbnails:
    """Thumbnails by content key, on disk; threads may share one.

    Args:
        root: folder of the cache.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self._folder = ShardFolder(self.root / "thumbnails", SPACE)
        self._writer = ShardWriter(self._folder, FLUSH_ROWS, FLUSH_SECONDS)
        self._writing = threading.Lock()

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of some content keys (hex sha256) that have none yet."""
        wanted = {bytes.fromhex(key) for key in keys}
        with self._writing:
            return {key.hex() for key in wanted - self._folder.known(wanted)}

    def add(self, key: str, row: np.ndarray | None) -> None:
        """Keep a row of `thumbnail`, if there is one.

        Raises:
            DataError: the cache cannot be written.
        """
        if row is None:
            return
        with self._writing:
            # as (1, 290) float32: the store keeps four bytes as one number, and never reckons with it
            self._writer.add([bytes.fromhex(key)], np.ascontiguousarray(row[None]).view(np.float32))

    def flush(self) -> None:
        """Write what is not on disk yet."""
        with self._writing:
            self._writer.flush()
            keeps("thumbnails", self.root)
            self._folder.merge()

    def find(self, keys: Collection[str]) -> Iterator[tuple[list[str], Pictures]]:
        """Keys and their thumbnails, some thousands at a time; keys that have none are passed over."""
        for found, rows in self._folder.find({bytes.fromhex(key) for key in keys}):
            yield [key.hex() for key in found], thumbnail_pictures(rows)


def thumbnail_pictures(rows: np.ndarray) -> Pictures:
    """Of N rows of `thumbnail`."""
    values = np.ascontiguousarray(rows).view(np.uint8)  # (n, 1160)
    grey, colour, sizes = np.split(values, [GREY_BYTES, GREY_BYTES + COLOUR_BYTES], axis=1)
    sides = np.ascontiguousarray(sizes).view("<u4").min(axis=1)
    return Pictures(
        grey.reshape(-1, GREY_SIDE, GREY_SIDE), colour.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2), sides.astype(np.int64)
    )

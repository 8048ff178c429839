"""A slide as OpenSlide opens it: its size and resolution, and its pixels on white.

OpenSlide: A Vendor-Neutral Software Foundation for Digital Pathology (Goode et al., 2013, doi
10.4103/2153-3539.119005). Pixels that a file does not have are transparent, and white here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....core.errors import DataError
from ....core.runtime import check_regular
from .options import SUFFIXES

if TYPE_CHECKING:
    from openslide import OpenSlide

LEAST_MPP, MOST_MPP = 0.02, 20.0
"""Micrometres per pixel that a microscope gives; what a TIFF says besides is the resolution of a print."""
LONGEST_SIDE = 2_000_000
"""Pixels: half a metre of glass at 0.25 micrometres."""
OVERVIEW_PIXELS = 1 << 26
"""Most pixels of an overview."""
STRIP_PIXELS = 1 << 22
"""Most pixels that are decoded at once for an overview."""


@dataclass(frozen=True)
class Slide:
    """What the header of a slide says.

    Args:
        path: its file.
        width: of the largest level, in pixels.
        height: likewise.
        downsamples: of each level, the largest first: 1, 4, 16.
        mpp: micrometres per pixel of the largest level; None where nothing says it.
        power: of the objective; None where the file does not say it.
        origin: x and y of what was scanned, from which QuPath counts; (0, 0) where all was.
    """

    path: Path
    width: int
    height: int
    downsamples: tuple[float, ...]
    mpp: float | None = None
    power: float | None = None
    origin: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, path: Path) -> Slide:
        """By the header.

        Raises:
            DataError: OpenSlide cannot open the file.
        """
        with opened_slide(path) as slide:
            stated, (width, height) = slide.properties, slide.dimensions
            if max(width, height) > LONGEST_SIDE:
                raise DataError(f"{path}: says {width:,} x {height:,} pixels, which no slide has; copy it again")
            across, down = (_number(stated, f"openslide.mpp-{axis}") for axis in "xy")
            mpp = None if across is None or down is None else math.sqrt(across * down)
            return cls(
                path,
                width,
                height,
                tuple(float(each) for each in slide.level_downsamples),
                mpp if mpp is not None and LEAST_MPP <= mpp <= MOST_MPP else None,
                _number(stated, "openslide.objective-power"),
                (int(_number(stated, "openslide.bounds-x") or 0), int(_number(stated, "openslide.bounds-y") or 0)),
            )

    def resolution(self, otherwise: float | None = None) -> float:
        """Micrometres per pixel of the largest level; by the objective where neither the file nor the user says
        it.

        Args:
            otherwise: what the user says of slides without a resolution.

        Raises:
            DataError: nothing says it.
        """
        stated = self.mpp if self.mpp is not None else otherwise if otherwise is not None else self.guessed_mpp
        if stated is None:
            raise DataError(
                f"{self.path}: says nothing of its resolution; give --slide-mpp, or a column mpp in the table, in "
                "micrometres per pixel of its largest level"
            )
        return stated

    @property
    def least_downsample(self) -> float:
        """That of the largest overview."""
        return max(1.0, math.sqrt(self.width * self.height / OVERVIEW_PIXELS))

    @property
    def guessed_mpp(self) -> float | None:
        """Micrometres per pixel that go with the power of the objective, 0.25 with 40x; None where it has none."""
        return 10.0 / self.power if self.power is not None and 1 <= self.power <= 100 else None

    def level_of(self, downsample: float) -> int:
        """The level to read from for pixels of so many of the largest level: the coarsest that is no coarser."""
        fine = [n for n, each in enumerate(self.downsamples) if each <= downsample * 1.01]
        return max(fine, key=lambda n: self.downsamples[n], default=0)


@contextmanager
def opened_slide(path: Path) -> Iterator[OpenSlide]:
    """The slide, open.

    Raises:
        DataError: OpenSlide cannot open it.
    """
    from openslide import OpenSlide, OpenSlideError, OpenSlideUnsupportedFormatError

    check_regular(path)
    try:
        slide = OpenSlide(path)
    except OpenSlideUnsupportedFormatError:
        raise DataError(
            f"{path}: is no slide that OpenSlide opens; give one ({' '.join(SUFFIXES)}, TIFF in tiles), or omit "
            "--unit slide where it is a plain image"
        ) from None
    except OpenSlideError as error:
        raise DataError(f"{path}: cannot be opened ({_reason(error)}); copy the slide again") from None
    with slide:
        yield slide


def region(slide: OpenSlide, path: Path, at: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 on white.

    Args:
        slide: as `opened_slide` gives it.
        path: for messages.
        at: x and y of the upper left corner in pixels of the largest level.
        level: to read from.
        size: width and height in pixels of that level.

    Raises:
        DataError: the level is damaged there.
    """
    from openslide import OpenSlideError

    try:
        pixels = np.asarray(slide.read_region(at, level, size))  # (h, w, 4)
    except OpenSlideError as error:
        place = f"level {level} at {at[0]}, {at[1]}"
        raise DataError(f"{path}: {place} cannot be read ({_reason(error)}); copy the slide again") from None
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if alpha.min(initial=255) == 255:
        return colour
    share = alpha.astype(np.float32) / 255
    return np.rint(colour * share + 255 * (1 - share)).astype(np.uint8)


def overview(slide: Slide, downsample: float) -> np.ndarray:
    """The whole slide at a fraction of its size, some rows at a time, so that memory is bounded.

    Args:
        slide: its header.
        downsample: pixels of the largest level along the side of one of the overview; at least `least_downsample`.

    Returns:
        (ceil(height / downsample), ceil(width / downsample), 3) uint8; what lies beyond the slide is white.

    Raises:
        DataError: the level is damaged.
    """
    import cv2

    width, height = math.ceil(slide.width / downsample), math.ceil(slide.height / downsample)
    level = slide.level_of(downsample)
    ratio = downsample / slide.downsamples[level]
    wide = max(1, round(width * ratio))
    rows = max(1, int(STRIP_PIXELS / (wide * ratio)))
    pixels = np.empty((height, width, 3), np.uint8)
    with opened_slide(slide.path) as source:
        for top in range(0, height, rows):
            count = min(rows, height - top)
            size = wide, max(1, round(count * ratio))
            strip = region(source, slide.path, (0, round(top * downsample)), level, size)
            pixels[top : top + count] = cv2.resize(strip, (width, count), interpolation=cv2.INTER_AREA)
    return pixels


def _number(stated: Mapping[str, str], name: str) -> float | None:
    """A positive number among the properties."""
    try:
        value = float(stated.get(name, "nan"))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason is given"])[0]

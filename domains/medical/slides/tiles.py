"""Tiles of a slide: a grid over its largest level, of which those with tissue, or in regions, are samples' parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.data import remember_by_file
from ....core.errors import DataError
from .reading import Slide, opened_slide, overview, region
from .regions import read_regions
from .tissue import PIXEL_UM, shares, tissue_mask

LEAST_PIXELS = 8
"""Of an overview along the side of a tile."""
FINEST = 1.25
"""How much coarser than the tiles a slide may be: 20x scanners differ by as much."""


@dataclass(frozen=True)
class Tiling:
    """How slides are cut.

    Args:
        tile: side of a tile in pixels.
        mpp: micrometres per pixel of a tile.
        tissue: least share of tissue in a tile.
        slide_mpp: of the slide, in place of what it says; None for that.
        regions: file of the regions that tiles are taken from; None for all tissue.
    """

    tile: int
    mpp: float
    tissue: float
    slide_mpp: float | None = None
    regions: Path | None = None


@dataclass(frozen=True, eq=False)
class SlideTiles:
    """The `Tiles` of a slide, in rows from top to bottom. The file is open while tiles are read, and not between.

    Args:
        slide: its header.
        coords: (T, 2) int64, x and y of upper left corners in pixels of the largest level.
        attributes: as the protocol has them.
    """

    slide: Slide
    coords: np.ndarray
    attributes: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.coords)

    def read(self, rows: range) -> np.ndarray:
        """(k, side, side, 3) uint8, on white: read from the nearest finer level, and resized.

        Raises:
            DataError: the slide is damaged there.
        """
        import cv2

        side, reach = self.attributes["side"], self.attributes["level0_side"]
        level = self.slide.level_of(reach / side)
        wide = max(1, round(reach / self.slide.downsamples[level]))
        pixels = np.empty((len(rows), side, side, 3), np.uint8)
        with opened_slide(self.slide.path) as slide:
            for at, row in enumerate(rows):
                x, y = (int(each) for each in self.coords[row])
                tile = region(slide, self.slide.path, (x, y), level, (wide, wide))
                how = cv2.INTER_AREA if wide > side else cv2.INTER_CUBIC
                pixels[at] = tile if wide == side else cv2.resize(tile, (side, side), interpolation=how)
        return pixels


def tiles_of(path: Path, tiling: Tiling) -> SlideTiles:
    """The tiles of a slide with tissue in regions.

    Raises:
        DataError: the slide cannot be read, or has no resolution, no such tile, or is coarser than the tiles; or as
            `read_regions`.
    """
    return _tiles_of(path, tiling)


def tile_grid(width: int, height: int, side: int) -> np.ndarray:
    """(T, 2) int64, upper left corners of the squares that lie in a slide side by side, row by row."""
    across, down = np.arange(width // side), np.arange(height // side)
    return np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2).astype(np.int64) * side


@remember_by_file(size=8)
def _tiles_of(path: Path, tiling: Tiling) -> SlideTiles:
    slide = Slide.of(path)
    slide_mpp = slide.resolution() if tiling.slide_mpp is None else tiling.slide_mpp
    if slide_mpp > tiling.mpp * FINEST:
        raise DataError(
            f"{path}: has {slide_mpp:.3g} micrometres per pixel, coarser than tiles of {tiling.mpp:g}; give --mpp "
            f"{slide_mpp:.2g} or more"
        )
    side = round(tiling.tile * tiling.mpp / slide_mpp)
    coords = tile_grid(slide.width, slide.height, side)
    if not len(coords):
        raise DataError(
            f"{path}: of {slide.width} x {slide.height} pixels is smaller than one tile of {side}; lower --tile or "
            "--mpp"
        )
    if tiling.regions is not None:
        coords = _inside(coords, side, slide, tiling.regions)
    downsample = max(slide.least_downsample, min(PIXEL_UM / slide_mpp, side / LEAST_PIXELS))
    mask = tissue_mask(overview(slide, downsample), downsample * slide_mpp)
    coords = coords[shares(mask, downsample, coords, side) >= tiling.tissue]
    if not len(coords):
        within = "" if tiling.regions is None else f" in the regions of {tiling.regions.name}"
        raise DataError(
            f"{path}: has no tile of {tiling.tile} pixels at {tiling.mpp:g} micrometres with {tiling.tissue:.0%} "
            f"tissue{within}; leave it out, or lower --tissue or --tile"
        )
    attributes = {
        "side": tiling.tile,
        "level0_side": side,
        "mpp": side * slide_mpp / tiling.tile,
        "width": slide.width,
        "height": slide.height,
        "origin": list(slide.origin),
    }
    return SlideTiles(slide, coords, attributes)


def _inside(coords: np.ndarray, side: int, slide: Slide, file: Path) -> np.ndarray:
    """The tiles whose centre lies in a region."""
    import shapely

    inside = read_regions(file, slide, most_beyond=side)
    shapely.prepare(inside)
    coords = coords[shapely.intersects_xy(inside, *(coords + side / 2).T)]
    if not len(coords):
        raise DataError(f"{file}: no tile of {slide.path.name} has its centre in a region; lower --tile or --mpp")
    return coords

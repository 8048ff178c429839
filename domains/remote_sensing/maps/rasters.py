"""A map as two cloud-optimised GeoTIFFs, on the grid of its raster: classes, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.errors import ConfigError, DataError
from ..gdal import writing
from ..rasters import Header, raster_corners, transform_at
from .areas import Ground
from .blending import blended, window_weights
from .scores import WindowScores

NOTHING = 0
"""Class of pixels where the raster has no value; classes count from 1."""
NO_SCORE = 255
MOST_CLASSES = 255
BLOCK = 512
STRIP_PIXELS, COLUMNS_AT_ONCE = 1_000_000, 4096
NAMED_COLOURS = 20


@dataclass
class Tally:
    """What a map says of its raster.

    Args:
        pixels: (C,) pixels of each class.
        areas: (C,) of each class, square metres or pixels.
        scores: (C,) mean score of the pixels of each class, 0..1; NaN for a class that is nowhere.
        nothing: pixels without a value.
    """

    pixels: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    nothing: int


def write_rasters(
    scored: WindowScores,
    class_names: Sequence[str],
    classes_file: Path,
    scores_file: Path,
    facts: dict[str, str],
    progress: Callable[[int, int], None],
) -> Tally:
    """Blend the scores of windows and write both rasters.

    Classes are uint8, from 1 in the order of the run, 0 (nodata) where the raster has no value, with a colour table;
    their names are the tags CLASS_1, CLASS_2, ... of the band. Scores are uint8, the blended probability of a pixel's
    class in per cent, 255 for nodata.

    Args:
        class_names: C names, 255 at most.
        classes_file, scores_file: what is written.
        facts: tags of both files.
        progress: called as progress(pixels done, all pixels).

    Raises:
        ConfigError: more classes. DataError: no space left, or another refusal.
    """
    if len(class_names) > MOST_CLASSES:
        raise ConfigError(
            f"a map has at most {MOST_CLASSES} classes, but this run has {len(class_names)}; give a run of fewer"
        )
    header, folder = scored.windows.header, classes_file.parent
    plain = [folder / f"plain-{file.name}" for file in (classes_file, scores_file)]
    ground, counted, written = Ground.of(header), _Counting(len(class_names)), 0
    with writing(folder):
        with ExitStack() as stack:
            classes, scores = (
                stack.enter_context(created(file, header, nodata)) for file, nodata in zip(plain, (NOTHING, NO_SCORE))
            )
            classes.write_colormap(1, {NOTHING: (0, 0, 0, 0), **dict(enumerate(colours(len(class_names)), start=1))})
            classes.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(class_names, start=1)})
            classes.set_band_description(1, "class")
            scores.set_band_description(1, "score of the class in per cent")
            for each in (classes, scores):
                each.update_tags(**facts)
            for top, left, of_class, of_score in _blocks(scored):
                rows, columns = of_class.shape
                place = ((top, top + rows), (left, left + columns))
                classes.write(of_class, 1, window=place)
                scores.write(of_score, 1, window=place)
                counted.add(of_class, of_score, ground.of_pixels(np.arange(top, top + rows)))
                written += of_class.size
                progress(written, header.height * header.width)
        for file, made, resampling in zip(plain, (classes_file, scores_file), ("MODE", "AVERAGE")):
            cloud_optimised(file, made, resampling)
            file.unlink()
    _check_whole(classes_file, counted.pixels)
    return counted.tally()


def strips_of(files: Sequence[Path]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """First row and the first bands (rows, width) of maps of one grid, from north to south.

    Raises:
        DataError: one cannot be read.
    """
    import rasterio

    with ExitStack() as stack:
        with writing(files[0].parent):
            maps = [stack.enter_context(rasterio.open(file, driver="GTiff")) for file in files]
        rows = strip_rows(maps[0].width)
        for top in range(0, maps[0].height, rows):
            place = ((top, min(top + rows, maps[0].height)), (0, maps[0].width))
            with writing(files[0].parent):
                bands = [each.read(1, window=place) for each in maps]
            yield top, bands


def strip_rows(width: int) -> int:
    """Rows of the strips that a map is read in."""
    return max(1, STRIP_PIXELS // width)


def strip_place(transform: Sequence[float], top: int, size: tuple[int, int]):
    """The transform of a strip of a raster that begins with a row, and its outline as a shapely polygon."""
    import shapely
    from rasterio.transform import Affine

    here, (height, width) = Affine(*transform_at(transform, 0, top)), size
    return here, shapely.Polygon(raster_corners(here, (0, 0, width, height)))


def colours(count: int) -> list[tuple[int, int, int, int]]:
    """Red, green, blue and opacity of each class: matplotlib's tab10 or tab20, or as many hues."""
    import matplotlib

    name = "tab10" if count <= 10 else "tab20" if count <= NAMED_COLOURS else "hsv"
    shades = matplotlib.colormaps[name]
    picked = shades(np.arange(count) if count <= NAMED_COLOURS else np.linspace(0, 0.95, count))
    return [(*(round(255 * value) for value in shade[:3]), 255) for shade in picked]


def _blocks(scored: WindowScores) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """First row and column, classes (rows, columns) uint8 and scores in per cent (rows, columns) uint8; some columns
    at a time, each from north to south."""
    windows = scored.windows
    tops, lefts, size = windows.places
    height, width = windows.shape
    weights = window_weights(size, windows.stride)
    for left in range(0, width, COLUMNS_AT_ONCE):
        columns = left, min(left + COLUMNS_AT_ONCE, width)
        for top, probabilities, seen in blended(scored.scores, tops, lefts, weights, height, columns):
            seen &= scored.valid((top, top + len(seen)), columns)
            of_class = probabilities.argmax(axis=0).astype(np.uint8) + 1
            of_score = np.rint(100 * probabilities.max(axis=0)).astype(np.uint8)
            yield top, left, np.where(seen, of_class, NOTHING).astype(np.uint8), np.where(seen, of_score, NO_SCORE)


class _Counting:
    def __init__(self, classes: int):
        self.pixels = np.zeros(classes + 1, np.int64)
        self._areas, self._scores = np.zeros(classes + 1), np.zeros(classes + 1)

    def add(self, of_class: np.ndarray, of_score: np.ndarray, areas: np.ndarray) -> None:
        """Rows of a map, and the area of a pixel in each."""
        classes = len(self.pixels)
        numbered = of_class + classes * np.arange(len(of_class))[:, None]
        per_row = np.bincount(numbered.ravel(), minlength=classes * len(of_class)).reshape(len(of_class), classes)
        self.pixels += per_row.sum(axis=0)
        self._areas += areas @ per_row
        self._scores += np.bincount(of_class.ravel(), of_score.ravel(), classes)

    def tally(self) -> Tally:
        pixels = self.pixels[1:]
        with np.errstate(invalid="ignore"):
            scores = self._scores[1:] / pixels / 100
        return Tally(pixels, self._areas[1:], scores, int(self.pixels[0]))


def created(file: Path, header: Header, nodata: float, kind: str = "uint8", count: int = 1):
    """A tiled raster on the grid of another, of one band of bytes or of other ones, open for writing."""
    import rasterio
    from rasterio.transform import Affine

    place: dict[str, Any] = {} if header.transform is None else {"transform": Affine(*header.transform)}
    place |= {"crs": rasterio.crs.CRS.from_wkt(header.crs)} if header.crs else {}
    shape = {"width": header.width, "height": header.height, "count": count, "dtype": kind, "nodata": nodata}
    tiles = {
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "DEFLATE",
        "ZLEVEL": 1,
        "interleave": "band",
    }
    return rasterio.open(file, "w", driver="GTiff", BIGTIFF="IF_SAFER", **tiles, **shape, **place)


def cloud_optimised(plain: Path, written: Path, resampling: str, **further: str) -> None:
    """Write a raster again as a cloud-optimised GeoTIFF, whose overviews are resampled by GDAL's way of that name."""
    from rasterio.shutil import copy

    how = {"COMPRESS": "DEFLATE", "BLOCKSIZE": BLOCK, "BIGTIFF": "IF_SAFER", "OVERVIEW_RESAMPLING": resampling}
    copy(plain, written, driver="COG", **how, **further)


def _check_whole(file: Path, pixels: np.ndarray) -> None:
    """Read a map back: what could not be written may only show when it is read.

    Raises:
        DataError: not what was written.
    """
    counts = np.zeros_like(pixels)
    for _, (of_class,) in strips_of([file]):
        counts += np.bincount(of_class.ravel(), minlength=len(pixels))[: len(pixels)]
    if not np.array_equal(counts, pixels):
        raise DataError.unwritable(file.parent, OSError("what was written is not what is read back"))

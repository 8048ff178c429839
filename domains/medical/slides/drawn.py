"""The sample of slides: small pyramids with pieces of tissue, some of which show a lesion, drawn once into the cache.

Tissue is pink with small nuclei, in the stain of its slide. Each slide has large dark nuclei, scattered, and nests of
small ones, in numbers that are drawn for it and say nothing of its class. In a lesion large dark nuclei lie together,
most of them in one tile, which tells more of it than the mean of the tiles does.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ....core.features import FeatureStore
from .samples import PACKAGES, check_slide_packages

VERSION = 2
COUNT, SIDE, MPP = 60, 2048, 0.5
SLIDES_EACH = 2
"""Of a patient."""
TILE, CELL = 256, 8
CLASSES = ("lesion", "normal")
NOTE = "These slides are drawn, not scans: their numbers say nothing about patients."
LICENCE = "Apache-2.0 (made by vladapt)"
TABLE = "slides.csv"
SCATTERED, NESTS, IN_LESION = (100, 1300), (0, 13), 130
"""Large nuclei anywhere, nests of small ones, and large nuclei of a lesion: the least and one more than the most."""
LARGE = (5, 9), (70, 40, 110)
"""Radii and colour of large nuclei."""


def slides_folder() -> Path:
    """The folder of the drawn slides and their table; it is made at the first call.

    Raises:
        CapabilityError: what draws and reads them is not installed.
    """
    check_slide_packages({**PACKAGES, "tifffile": "tifffile"})
    return FeatureStore.filled(f"samples/slides-{VERSION}", _draw_into)


def drawn_slide(number: int) -> tuple[np.ndarray, str]:
    """(2048, 2048, 3) uint8 at 0.5 micrometres per pixel, on white, and its class."""
    import cv2

    random = np.random.default_rng([VERSION, number])
    stain = np.array([228, 170, 200]) + random.uniform(-14, 14, 3)
    tissue = np.zeros((SIDE, SIDE), np.uint8)
    centres = random.uniform(0.3, 0.7, (3, 2)) * SIDE
    for x, y in centres:
        axes = tuple(int(each) for each in random.uniform(0.18, 0.3, 2) * SIDE)
        cv2.ellipse(tissue, (int(x), int(y)), axes, float(random.uniform(0, 180)), 0, 360, 1, -1)
    shades = np.clip(stain + random.normal(0, 9, (SIDE // CELL, SIDE // CELL, 1)), 0, 255).astype(np.uint8)
    pixels = cv2.resize(shades, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    pixels[tissue == 0] = 244
    inside = tissue > 0
    _draw_nuclei(pixels, random.uniform(0, SIDE, (random.integers(1500, 3500), 2)), inside, (3, 6), (150, 110, 170))
    _draw_nuclei(pixels, random.uniform(0, SIDE, (random.integers(*SCATTERED), 2)), inside, *LARGE)
    for _ in range(random.integers(*NESTS)):
        nest = centres[random.integers(3)] + random.normal(0, 0.12 * SIDE, 2)
        places = nest + random.normal(0, 45, (random.integers(80, 220), 2))
        _draw_nuclei(pixels, places, inside, (3, 4), (90, 50, 130))
    label = CLASSES[number // SLIDES_EACH % 2]
    if label == CLASSES[0]:
        middle = centres[0] // TILE * TILE + TILE / 2
        _draw_nuclei(pixels, middle + random.normal(0, 50, (IN_LESION, 2)), inside, *LARGE)
    return pixels, label


def write_pyramid(
    path: Path, sides: Sequence[tuple[int, int]], tiles: Sequence[Iterator[bytes]], mpp: float | None
) -> None:
    """Write a TIFF of several levels.

    Args:
        path: of the file.
        sides: (height, width) of each level, the largest first.
        tiles: of each level the pixels of each tile, row by row, deflated; no bytes for one that is missing.
        mpp: micrometres per pixel of the largest level; None for a file that says nothing of it.
    """
    import tifffile

    with tifffile.TiffWriter(path) as tiff:
        for level, (side, encoded) in enumerate(zip(sides, tiles, strict=True)):
            density = 0.0 if mpp is None else 1e4 / (mpp * sides[0][1] / side[1])
            tiff.write(
                encoded,
                shape=(*side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(level > 0),
                resolution=(density, density) if density else None,
                resolutionunit="CENTIMETER" if density else "NONE",
                metadata=None,
            )


def deflated(pixels: np.ndarray) -> Iterator[bytes]:
    """The tiles of (H, W, 3) uint8 as `write_pyramid` takes them; what lies beyond is white."""
    rest = -np.array(pixels.shape[:2]) % TILE
    pixels = np.pad(pixels, ((0, rest[0]), (0, rest[1]), (0, 0)), constant_values=255)
    for top in range(0, pixels.shape[0], TILE):
        for left in range(0, pixels.shape[1], TILE):
            yield zlib.compress(pixels[top : top + TILE, left : left + TILE].tobytes())


def _draw_nuclei(pixels: np.ndarray, places: np.ndarray, inside: np.ndarray, radii: tuple[int, int], colour) -> None:
    import cv2

    for number, (x, y) in enumerate(places.astype(int).tolist()):
        if 0 <= x < SIDE and 0 <= y < SIDE and inside[y, x]:
            cv2.circle(pixels, (x, y), radii[0] + number % (radii[1] - radii[0] + 1), colour, -1)


def _draw_into(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        labels = list(pool.map(lambda number: _write(folder, number), range(COUNT)))
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "patient"))
        rows.writerows((_name(number), label, f"P{number // SLIDES_EACH:02d}") for number, label in enumerate(labels))


def _write(folder: Path, number: int) -> str:
    import cv2

    pixels, label = drawn_slide(number)
    levels = [pixels]
    while levels[-1].shape[0] > 512:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    sides = [(each.shape[0], each.shape[1]) for each in levels]
    write_pyramid(folder / _name(number), sides, [deflated(each) for each in levels], MPP)
    return label


def _name(number: int) -> str:
    return f"slide_{number:02d}.tif"

"""The sample of change detection: pairs of dates drawn by this code, with no satellite and no licence.

Houses stand among fields along a road. Between the dates some are built and some are gone, which is the change. What is
none: each field has another crop, the light is another, shadows fall elsewhere, and the second date may be registered
with an error.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ....core.data import Drawing
from ....core.features import FeatureStore

VERSION = 1
SIDE, MARGIN = 96, 8
PAIRS = {"train": 36, "val": 12, "test": 20}
SAMPLE_SHIFT = 1.0
"""Pixels by which the second dates of the sample are misplaced."""
FIELDS, HOUSES = 9, 16
BUILT, GONE = 0.2, 0.2
"""Shares of the houses that only the second date, or only the first one has."""
ROAD = np.array([0.52, 0.52, 0.53])
CROPS = np.array([[0.24, 0.38, 0.16], [0.34, 0.46, 0.2], [0.62, 0.56, 0.32], [0.44, 0.37, 0.27], [0.3, 0.33, 0.2]])
ROOFS = np.array([[0.62, 0.32, 0.25], [0.72, 0.7, 0.68], [0.42, 0.42, 0.46], [0.8, 0.55, 0.42]])
NOTE = "These pairs are drawn by vladapt itself, not seen from space: their numbers say nothing about remote sensing."


def changes_folder() -> Path:
    """68 pairs of 96 x 96 pixels with splits, in the layout of LEVIR-CD; drawn into the cache at the first call."""
    return FeatureStore.filled(f"samples/changes-{VERSION}", lambda partial: write_change_set(partial, SAMPLE_SHIFT))


def write_change_set(folder: Path, shift: float, seed: int = 0) -> None:
    """Draw a set: `A`, `B` and `label`, PNG each, below folders of splits.

    Args:
        shift: pixels by which each second date is misplaced, each in another direction.
        seed: of all places.
    """
    number = 0
    for split, count in PAIRS.items():
        for name in ("A", "B", "label"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            pictures = drawn_pair(number, shift, seed)
            for name, pixels in zip(("A", "B", "label"), pictures):
                Image.fromarray(pixels).save(folder / split / name / f"place_{number:03d}.png")
            number += 1


def drawn_pair(number: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both dates (96, 96, 3) uint8 of a place, and what changed (96, 96) uint8, 255 where it did."""
    from scipy.ndimage import shift as displace

    random = np.random.default_rng([VERSION, seed, number])
    whole = SIDE + 2 * MARGIN
    fields, road = _fields(random, whole), random.uniform(0.3, 0.7) * whole
    houses = _houses(random, whole, road)
    fates = random.choice(3, len(houses), p=[1 - BUILT - GONE, BUILT, GONE])
    standing = [[h for h, fate in zip(houses, fates) if fate != gone] for gone in (1, 2)]
    before, after = (_date(random, fields, road, of) for of in standing)
    direction = random.uniform(0, 2 * np.pi)
    after = displace(after, (shift * np.sin(direction), shift * np.cos(direction), 0), order=1, mode="nearest")
    changed = np.zeros((whole, whole), bool)
    for (top, left, height, width, _), fate in zip(houses, fates):
        changed[top : top + height, left : left + width] |= fate > 0
    inside = slice(MARGIN, MARGIN + SIDE)
    dates = [_developed(random, date[inside, inside]) for date in (before, after)]
    return dates[0], dates[1], changed[inside, inside].astype(np.uint8) * 255


def _fields(random: np.random.Generator, whole: int) -> np.ndarray:
    """(whole, whole) which field each pixel is of: that of the nearest of some points."""
    points = random.uniform(0, whole, (FIELDS, 2))
    rows, columns = np.mgrid[:whole, :whole]
    return ((rows[..., None] - points[:, 0]) ** 2 + (columns[..., None] - points[:, 1]) ** 2).argmin(axis=-1)


def _houses(random: np.random.Generator, whole: int, road: float) -> list:
    """Houses that stand apart from each other."""
    taken, houses = np.zeros((whole, whole), bool), []
    for house in (_house(random, whole, road) for _ in range(HOUSES)):
        top, left, height, width, _ = house
        around = slice(max(0, top - 2), top + height + 2), slice(max(0, left - 2), left + width + 2)
        if not taken[around].any():
            taken[around] = True
            houses.append(house)
    return houses


def _house(random: np.random.Generator, whole: int, road: float) -> tuple[int, int, int, int, np.ndarray]:
    """Top, left, height, width and the colour of the roof."""
    height, width = random.integers(6, 15, 2)
    near = road + random.choice([-1, 1]) * random.uniform(8, 34)
    top = int(np.clip(near - height / 2, 0, whole - height))
    left = int(random.integers(0, whole - width))
    roof = ROOFS[random.integers(len(ROOFS))] * random.uniform(0.85, 1.1)
    return top, left, int(height), int(width), roof


def _date(random: np.random.Generator, fields: np.ndarray, road: float, houses: list) -> np.ndarray:
    """(whole, whole, 3): crops of this date, the road, shadows, and the houses that stand."""
    whole = len(fields)
    crops = CROPS[random.integers(len(CROPS), size=FIELDS)] * random.uniform(0.85, 1.15, (FIELDS, 1))
    ground = crops[fields] + 0.05 * Drawing.clouds(random, whole, 1.5)[..., None]
    rows = np.abs(np.arange(whole) - road)
    ground[rows < 3] = ROAD
    down, right = random.integers(1, 4), random.choice([-3, -2, 2, 3])
    for top, left, height, width, _ in houses:
        y, x = top + down, max(0, left + right)
        ground[y : y + height, x : x + width] *= 0.6
    for top, left, height, width, roof in houses:
        ground[top : top + height, left : left + width] = roof
        ground[top : top + height // 2, left : left + width] *= 0.88
    return ground


def _developed(random: np.random.Generator, date: np.ndarray) -> np.ndarray:
    """In the light of its season, with noise, as uint8."""
    light = random.uniform(0.8, 1.2) * random.uniform(0.94, 1.06, 3)
    haze = random.uniform(0, 0.12)
    return Drawing.pixels(Drawing.hazy(date, light, haze, air=0.7) + random.normal(0, 0.012, date.shape))

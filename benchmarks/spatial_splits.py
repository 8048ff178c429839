"""How much a random split overestimates accuracy where neighbours look alike: one map, split by blocks and at random.

    python benchmarks/spatial_splits.py             # patches of 3 x 3 windows, as fields are
    python benchmarks/spatial_splits.py --patch 1   # each window is a patch: neighbours tell nothing

A raster has 768 x 768 pixels of 10 m, four bands and four classes, in homogeneous patches: each has a class and,
independently of it, a colour, a light, and the direction, width and strength of its rows. The class shows in the
infrared alone, and less than the light does. Windows have a side of 32 pixels; a fit on all labelled windows gives its
accuracy on blocks of land and on a random split of the same windows, as in the report of every run that is split by
place. Mean and standard deviation over the maps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

import vladapt

WINDOWS, WINDOW, METRES = 24, 32, 10
CLASSES = ("wheat", "maize", "fallow", "rape")
BASE, LIGHT, SIGNAL, NOISE = 120.0, 25.0, 12.0, 8.0
BLOCK = 1920
ADAPTERS = ("linear-probe", "gda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, default=3, help="side of a patch, in windows")
    parser.add_argument("--maps", type=int, default=3)
    asked = parser.parse_args()
    print(f"| method | blocks of {BLOCK / 1000:g} km | random split | difference |\n| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        maps = [draw(Path(folder) / str(seed), asked.patch, seed) for seed in range(asked.maps)]
        for adapter in ADAPTERS:
            scores = np.array([accuracies(each, adapter) for each in maps]) * 100  # (maps, 2)
            both = np.column_stack([scores, scores[:, 1] - scores[:, 0]])
            cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(both.mean(axis=0), both.std(axis=0, ddof=1))]
            print(f"| {adapter} | {' | '.join(cells)} |", flush=True)


def draw(folder: Path, patch: int, seed: int) -> Path:
    """map.tif and classes.tif in a new folder."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    side, count = patch * WINDOW, WINDOWS // patch
    classes = rng.integers(0, len(CLASSES), (count, count))
    pixels = np.concatenate(
        [np.concatenate([field(rng, side, each) for each in row], axis=2) for row in classes], axis=1
    )
    labels = classes.repeat(side, axis=0).repeat(side, axis=1).astype(np.uint8)
    place = {"driver": "GTiff", "crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, METRES, METRES)}
    size = {"height": count * side, "width": count * side, "dtype": "uint8"}
    with rasterio.open(folder / "map.tif", "w", count=4, photometric="minisblack", **size, **place) as raster:
        raster.write(pixels)
        raster.descriptions = ("red", "green", "blue", "nir")
    with rasterio.open(folder / "classes.tif", "w", count=1, **size, **place) as raster:
        raster.write(labels, 1)
    return folder


def field(rng: np.random.Generator, side: int, label: int) -> np.ndarray:
    """(4, side, side) uint8 of a patch."""
    angle, width, strength = rng.uniform(0, np.pi), rng.uniform(4, 16), rng.uniform(0, 2)
    rows, columns = np.mgrid[:side, :side]
    along = np.sin(2 * np.pi * (rows * np.cos(angle) + columns * np.sin(angle)) / width)
    colour = BASE + LIGHT * rng.normal(size=4)
    colour[3] += SIGNAL * (label - (len(CLASSES) - 1) / 2)
    pixels = colour[:, None, None] + LIGHT * strength * along / 2 + NOISE * rng.normal(size=(4, side, side))
    return np.clip(pixels, 1, 255).astype(np.uint8)


def accuracies(folder: Path, adapter: str) -> tuple[float, float]:
    """On blocks of land, and on a random split."""
    data = {"path": str(folder / "map.tif"), "labels": str(folder / "classes.tif"), "class_names": ",".join(CLASSES)}
    data |= {"bands": "false-color", "window_size": WINDOW, "overlap": 0.0, "block_size": BLOCK}
    how = {"shots": None, "seed": 1, "image_size": 64, "out": str(folder / adapter)}
    done = vladapt.fit(domain="remote-sensing", data=data, adapter=adapter, **how)
    return done.metrics["adapted"]["accuracy"], done.metrics["random_split"]["accuracy"]


if __name__ == "__main__":
    main()

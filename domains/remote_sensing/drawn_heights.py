"""The sample of pixel regression: canopy from above with its height, drawn once into the cache.

Trees stand in meadows of the colour of their crowns; what tells their height is how wide crowns are and how long
shadows fall. Light, haze and greenness vary from site to site and say nothing about heights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.data import Drawing
from ...core.features import FeatureStore

VERSION = 1
SITES, SIDE = 50, 64
METRES_APART = 20_000
CRS = "EPSG:32633"
NODATA = -9999.0
NOTE = (
    "Drawn data: the sample's canopy is drawn by vladapt itself, not seen from space; its numbers show that the "
    "pipeline works, nothing about forests."
)


def heights_folder() -> Path:
    """Folders images and targets with a GeoTIFF of each site; they are made at the first call."""
    name = f"samples/canopy-heights-{VERSION}"
    return FeatureStore.filled(name, lambda partial: write_sites(partial, range(SITES), SIDE))


def write_sites(folder: Path, numbers: range, side: int, seed: int = 0) -> None:
    """Write images/site_NN.tif and targets/site_NN.tif, each site a place of its own."""
    for number in numbers:
        image, height = drawn_canopy(side, [VERSION, seed, number])
        left = 300_000 + METRES_APART * (number % 10)
        top = 5_000_000 + METRES_APART * (number // 10)
        write_raster(folder / "images" / f"site_{number:02d}.tif", image, left, top)
        write_raster(folder / "targets" / f"site_{number:02d}.tif", height[None], left, top, nodata=NODATA)


def write_raster(file: Path, values: np.ndarray, left: float, top: float, nodata: float | None = None) -> None:
    """A GeoTIFF with pixels of one metre; heights have their name and unit."""
    import rasterio
    from rasterio.transform import from_origin

    file.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype.name}
    how = {"driver": "GTiff", "crs": CRS, "transform": from_origin(left, top, 1, 1), "nodata": nodata}
    with rasterio.open(file, "w", compress="DEFLATE", tiled=values.shape[1] >= 256, **shape, **how) as made:
        made.write(values)
        if nodata is not None:
            made.set_band_description(1, "canopy height")
            made.set_band_unit(1, "m")


def drawn_canopy(side: int, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(3, side, side) uint8 image, and (side, side) float32 metres; a corner of each third site was not measured."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    stand, dense = (Drawing.clouds(rng, side, side / 6) for _ in range(2))
    typical = np.clip(rng.uniform(6, 22) + 5 * stand, 3, 32)  # metres of a tree that grows here
    height, shade = np.zeros((side, side), np.float32), np.zeros((side, side), np.float32)
    y, x = np.mgrid[:side, :side]
    for _ in range(side * side // 40):
        row, column = rng.uniform(-4, side + 4, 2)
        at = int(np.clip(row, 0, side - 1)), int(np.clip(column, 0, side - 1))
        if rng.random() > 0.65 + 0.35 * dense[at]:
            continue
        metres = float(typical[at] * rng.uniform(0.8, 1.2))
        radius = 0.8 + 0.16 * metres
        near = (
            slice(max(0, int(row - radius - 1)), int(row + radius + 2)),
            slice(max(0, int(column - radius - 1)), int(column + radius + 2)),
        )
        inside = 1 - ((y[near] - row) ** 2 + (x[near] - column) ** 2) / radius**2
        crown = metres * np.sqrt(np.clip(inside, 0, 1)) ** 0.7
        height[near] = np.maximum(height[near], crown)
        for step in range(1, int(0.5 * metres) + 1):  # the sun stands in the north-west
            place = (row + step - y) ** 2 + (column + step - x) ** 2 < (0.8 * radius) ** 2
            shade = np.where(place & (height < metres - 2 * step), 1.0, shade).astype(np.float32)
    meadow, light = np.array([0.33, 0.42, 0.22]) * rng.uniform(0.85, 1.15, 3), rng.uniform(0.8, 1.2)
    grain = gaussian_filter(rng.normal(size=(side, side)), 0.7)
    slope = np.tanh((np.gradient(height, axis=0) + np.gradient(height, axis=1)) / 4)  # what faces the sun is lit
    lit = (0.95 + 0.2 * slope) * (1 - 0.45 * shade)
    pixels = light * meadow[:, None, None] * (lit + 0.06 * grain) + rng.uniform(0, 0.08)
    pixels = pixels + rng.normal(0, 0.01, pixels.shape)
    if seed[-1] % 3 == 0:
        height[: side // 6, : side // 5] = NODATA
    return Drawing.pixels(pixels), height

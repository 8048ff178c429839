"""Draws a large raster of farm land with its label layer, and measures what cutting it into windows costs.

The fields have four crops, under light that changes over kilometres, so that neighbours look alike.

    python benchmarks/raster_windows.py draw fields 2000   fields.tif of 2000 x 2000 pixels of 10 m, and fields.gpkg
    python benchmarks/raster_windows.py read fields        windows per second, and the most memory of the process
"""

import resource
import sys
import time

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from usage import print_help

CROPS = ("wheat", "maize", "fallow", "rape")
BANDS = ("blue", "green", "red", "nir")
VALUES = np.array([[900, 700, 600, 2500], [1100, 900, 700, 3200], [1400, 1200, 1000, 2200], [800, 900, 500, 2800]])
FIELD, ROWS, LEFT, TOP, METRES = 100, 100, 500_000, 5_000_000, 10


def draw(name: str, side: int, seed: int = 0, field: int = FIELD, contrast: float = 350) -> None:
    """Write NAME.tif, some rows at a time, and NAME.gpkg.

    Args:
        side: of the raster, and `field` of a field, in pixels.
        contrast: how much the light changes.
    """
    rng = np.random.default_rng(seed)
    count = side // field
    crops = rng.integers(0, len(CROPS), (count, count))
    light = [gaussian_filter(rng.normal(size=(side // 10, side // 10)), 20) for _ in BANDS]
    light = np.stack([each / each.std() for each in light])  # (4, side / 10, side / 10), smooth
    shape = {"count": len(BANDS), "height": count * field, "width": count * field, "dtype": "uint16"}
    place = {"crs": "EPSG:32633", "transform": from_origin(LEFT, TOP, METRES, METRES)}
    with rasterio.open(f"{name}.tif", "w", driver="GTiff", tiled=True, compress="deflate", **shape, **place) as raster:
        for top in range(0, count * field, ROWS):
            strip = crops[top // field].repeat(field)[None].repeat(ROWS, axis=0)  # (100, side)
            of_strip = light[:, top // 10 : (top + ROWS) // 10, : count * field // 10]
            values = VALUES[strip].transpose(2, 0, 1) + contrast * of_strip.repeat(10, axis=1).repeat(10, axis=2)
            values = np.clip(values + 80 * rng.normal(size=values.shape), 1, 65535).astype(np.uint16)
            raster.write(values, window=((top, top + ROWS), (0, count * field)))
        raster.descriptions = BANDS
    metres = field * METRES
    corners = [(LEFT + column * metres, TOP - (row + 1) * metres) for row in range(count) for column in range(count)]
    pyogrio.raw.write(
        f"{name}.gpkg",
        shapely.to_wkb(np.array([shapely.box(x, y, x + metres, y + metres) for x, y in corners])),
        field_data=[np.array([CROPS[crop] for crop in crops.ravel()], dtype=object)],
        fields=["crop"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    print(f"{name}.tif, {side} x {side} pixels, and {name}.gpkg, {count * count} fields")


def read(name: str) -> None:
    """Cut NAME.tif, label its windows by NAME.gpkg, decode each."""
    from vladapt import load_domain

    started = time.perf_counter()
    options = {"labels": f"{name}.gpkg", "label_column": "crop", "bands": "false-color", "overlap": 0.0}
    data = load_domain("remote-sensing").read(f"{name}.tif", "classification", **options)
    cut = time.perf_counter()
    for item in data.items:
        data.load(item)
    seconds, peak = time.perf_counter() - cut, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(data.items):,} windows cut and labelled in {cut - started:.1f} s")
    print(f"decoded at {len(data.items) / seconds:.0f} per second; peak memory {peak:.0f} MB")


if __name__ == "__main__":
    print_help(__doc__, words=2)
    command, name, *side = sys.argv[1:]
    draw(name, int(side[0])) if command == "draw" else read(name)

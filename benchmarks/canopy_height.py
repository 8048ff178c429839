"""Heights of drawn canopy, pixel by pixel, beside what one has without a network; and the memory of a large raster.

    python benchmarks/canopy_height.py [--seeds 5] [--steps 150] [--sites 50] [--maps FOLDER]
    python benchmarks/canopy_height.py --memory 20000

Trees and meadow have the same colours, so that a pixel says little of its height; crowns and shadows say it
(`domains/remote_sensing/drawn_heights.py`). Of each seed other sites are drawn, fitted and split. The table has the
RMSE in metres on test sites, and the difference to the best ridge regression, paired over seeds with its 95 % interval
by Student's t. --maps keeps the map of a further site of the first seed, by `vladapt predict`.

--memory draws one raster of that side with its target, reads it, trains a narrow U-Net for five steps, tests it and
maps the raster; after each it prints the most memory that the process has had at once.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import vladapt
from vladapt.core.metrics.intervals import t_quantile
from vladapt.domains.remote_sensing.drawn_heights import CRS, NODATA, drawn_canopy, write_sites
from vladapt.domains.remote_sensing.gdal import NO_NETWORK

SIDE = 64
TILE = 500
NETWORK = {"task": "pixel-regression", "domain": "remote-sensing", "device": "cpu", "batch_size": 4, "width": 32}
COLUMNS = ("rmse", "rmse_ridge_features", "rmse_ridge_bands", "rmse_training_mean", "interval_coverage")


def fitted(seed: int, steps: int, sites: int, folder: Path, maps: Path | None) -> dict[str, Any]:
    """Scores of one seed."""
    write_sites(folder / "set", range(sites), SIDE, seed)
    run = vladapt.fit(**NETWORK, data=str(folder / "set"), seed=seed, steps=steps, out=str(folder / "runs"))
    if maps is not None:
        write_sites(folder / "new", range(sites, sites + 1), 2 * SIDE, seed)
        vladapt.predict(run.run, sorted((folder / "new" / "images").iterdir()), out=str(maps), device="cpu")
    return run.metrics["adapted"]


def heights(seeds: int, steps: int, sites: int, maps: Path | None) -> None:
    """Print the table."""
    rows = []
    for seed in range(1, seeds + 1):
        with TemporaryDirectory() as folder:
            rows.append(fitted(seed, steps, sites, Path(folder), maps if seed == 1 else None))
        print(
            f"seed {seed}: " + ", ".join(f"{name} {rows[-1].get(name, float('nan')):.3f}" for name in COLUMNS),
            flush=True,
        )
    gains = [min(row["rmse_ridge_features"], row["rmse_ridge_bands"]) - row["rmse"] for row in rows]
    print("\n| RMSE, m | mean | lowest | highest |\n|---|---|---|---|")
    names = {
        "rmse": "network",
        "rmse_ridge_features": "ridge on frozen features",
        "rmse_ridge_bands": "ridge on the bands",
    }
    for name, title in (names | {"rmse_training_mean": "training mean"}).items():
        values = [row[name] for row in rows]
        print(f"| {title} | {statistics.fmean(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    mean = statistics.fmean(gains)
    interval = ""
    if len(rows) > 1:
        half = float(t_quantile(len(rows) - 1)) * statistics.stdev(gains) / len(rows) ** 0.5
        interval = f" (95 % interval {mean - half:.2f} to {mean + half:.2f})"
    print(f"\nlower than the better ridge by {mean:.2f} m{interval}")
    if held := [row["interval_coverage"] for row in rows if "interval_coverage" in row]:
        print(f"90 % intervals hold {statistics.fmean(held):.1%} of the pixels of test sites")


def memory(side: int, folder: Path) -> None:
    """Print seconds and the most memory after reading, after a fit with its evaluation, and after a map."""
    image, target = _large(side, folder)
    cut = {"labels": str(target), "window_size": 256, "overlap": 0.0, "block_size": 512.0}
    started = time.monotonic()
    windows = len(vladapt.load_domain("remote-sensing").read(image, "pixel-regression", **cut).items)
    print(f"{windows:,} windows read: {time.monotonic() - started:.0f} s, {_most()} MB", flush=True)
    network = {**NETWORK, "encoder": "unet", "width": 4}
    run = vladapt.fit(**network, data={"path": str(image), **cut}, steps=5, out=str(folder / "runs"))
    print(f"fitted and evaluated: {time.monotonic() - started:.0f} s, {_most()} MB", flush=True)
    vladapt.predict(run.run, [image], out=str(folder / "maps"), device="cpu")
    print(f"mapped: {time.monotonic() - started:.0f} s, {_most()} MB")


def _large(side: int, folder: Path) -> tuple[Path, Path]:
    """An image and its target, a drawn tile repeated in other light."""
    import rasterio
    from rasterio.transform import from_origin

    tile, height = drawn_canopy(TILE, [1])
    files = folder / "image.tif", folder / "height.tif"
    shape = {"width": side, "height": side, "crs": CRS, "transform": from_origin(300_000, 5_000_000, 1, 1)}
    how = {"driver": "GTiff", "tiled": True, "compress": "DEFLATE", "ZLEVEL": 1, "BIGTIFF": "IF_SAFER"}
    kinds = {"count": 3, "dtype": "uint8"}, {"count": 1, "dtype": "float32", "nodata": NODATA}
    with (
        rasterio.Env(**NO_NETWORK),  # GDAL's cache is as large as its first use says
        rasterio.open(files[0], "w", **shape, **how, **kinds[0]) as one,
        rasterio.open(files[1], "w", **shape, **how, **kinds[1]) as other,
    ):
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                place = ((top, min(top + TILE, side)), (left, min(left + TILE, side)))
                rows, columns = (end - begin for begin, end in place)
                light = 0.8 + 0.1 * ((top // TILE + left // TILE) % 3)
                one.write((tile[:, :rows, :columns] * light).astype(np.uint8), window=place)
                other.write(height[None, :rows, :columns], window=place)
    return files


def _most() -> int:
    """MB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--memory", type=int, metavar="SIDE")
    given = parser.parse_args()
    if given.memory:
        with TemporaryDirectory() as folder:
            memory(given.memory, Path(folder))
    else:
        heights(given.seeds, given.steps, given.sites, given.maps)


if __name__ == "__main__":
    main()

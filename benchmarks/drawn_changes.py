"""Change detection on drawn pairs of dates whose second date is registered with an error.

    python benchmarks/drawn_changes.py                       # errors of 0, 1, 2 and 3 pixels, three seeds each
    python benchmarks/drawn_changes.py --map ./maps          # and a map of the last fit, on a pair of GeoTIFFs

Each seed draws places of its own, 36 to train on, 12 to choose thresholds on and 20 to test, and trains a siamese head
on the frozen tower `embedded`. Beside it stand a threshold on the distance of the same tower's features, at the depth
that is best on val, and one on the difference of the pixels. The difference of F1 is that to the better of the two,
paired by seed, with Student's 95 % interval over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import vladapt
from vladapt.core.metrics.intervals import t_quantile
from vladapt.domains.remote_sensing.changes.drawn import drawn_pair, write_change_set

ERRORS, SEEDS = (0, 1, 2, 3), (1, 2, 3)
HOW = {"domain": "remote-sensing", "task": "change", "device": "cpu", "epochs": 14, "batch_size": 4, "workers": 0}
METRES = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--errors", default=",".join(map(str, ERRORS)), help="pixels")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--map", type=Path, help="folder for a map of the last fit")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    print("| error, pixels | F1 | IoU | F1 of feature difference | F1 of image difference | difference of F1 |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for error in map(float, asked.errors.split(",")):
            runs = [fitted(Path(folder), error, int(seed)) for seed in asked.seeds.split(",")]
            print(row(error, [run.metrics["adapted"] for run in runs]), flush=True)
        if asked.map is not None:
            map_of(runs[-1].run, error, asked.map)
    print(f"\nCPU time: {(time.process_time() - started) / 60:.1f} minutes.")


def fitted(folder: Path, error: float, seed: int):
    """A fit on a set of its own."""
    place = folder / f"{error:g}-{seed}"
    write_change_set(place, error, seed)
    return vladapt.fit(data=str(place), seed=seed, out=str(folder / "runs"), **HOW)


def row(error: float, scores: list[dict[str, float]]) -> str:
    """Means over seeds, and the paired difference to the better threshold."""
    names = ("f1", "IoU", "f1_feature_difference", "f1_image_difference")
    means = [f"{100 * statistics.mean(of[name] for of in scores):.1f} %" for name in names]
    gains = [100 * (of["f1"] - max(of[name] for name in names[2:])) for of in scores]
    margin = ""
    if len(gains) > 1:
        margin = f" ± {float(t_quantile(len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5:.1f}"
    return f"| {error:g} | {' | '.join(means)} | {statistics.mean(gains):+.1f}{margin} points |"


def map_of(run: Path, error: float, folder: Path) -> None:
    """GeoTIFFs of new places, and the files of `vladapt predict RUN BEFORE AFTER --out FOLDER`."""
    import rasterio
    from rasterio.transform import from_origin

    folder.mkdir(parents=True, exist_ok=True)
    tiles = [[drawn_pair(1000 + 3 * down + right, error, 99)[:2] for right in range(3)] for down in range(2)]
    files = []
    for date, name in enumerate(("before", "after")):
        pixels = np.concatenate([np.concatenate([tile[date] for tile in across], axis=1) for across in tiles])
        files.append(folder / f"{name}.tif")
        height, width = pixels.shape[:2]
        shape = {"count": 3, "dtype": "uint8", "height": height, "width": width}
        place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, METRES, METRES)}
        with rasterio.open(files[-1], "w", driver="GTiff", **shape, **place) as raster:
            raster.write(pixels.transpose(2, 0, 1))
    predicted = vladapt.predict(run, files, out=str(folder), device="cpu")
    print(f"\n{predicted.rows()[0]['summary']}: {', '.join(file.name for file in predicted.files)}")


if __name__ == "__main__":
    main()

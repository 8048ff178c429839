"""What a fourth band adds to a segmentation: land in which the infrared alone tells water from shadow.

    python benchmarks/fourth_band.py                     # five seeds, the table of docs/measurements/rasters.md
    python benchmarks/fourth_band.py map FOLDER          # one seed, and its map of a large scene, as a picture

Scenes are drawn (`four_bands.py`). A small ResNet of mmsegmentation with a feature pyramid is trained from its random
start on red, green and blue, and on these and the infrared: the same scenes, splits, seeds and steps. Differences are
paired by seed; the interval is Student's, over the seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from four_bands import BANDS, CLASSES, config, fit, write_chips, write_scene
from PIL import Image
from pycocotools.mask import decode
from scipy.stats import t

import vladapt

CHOICES = BANDS[:3], BANDS
CHIPS, SIDE, EPOCHS, BATCH, RATE = {"train": 64, "val": 8, "test": 32}, 64, 12, 8, 3e-3
WIDTH = 16
COLOURS = np.array([(120, 190, 90), (40, 90, 220), (60, 60, 60), (255, 255, 255)], np.uint8)
"""Of each class, and of what has no value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["table", "map"], default="table")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.what == "map":
        draw_map(asked.folder or Path("fourth_band"))
        return
    began, rows = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, asked.seeds + 1):
            data = write_chips(Path(folder) / f"{seed}", seed, CHIPS, SIDE)
            rows.append([scores(fit(segmentor(), data, bands, seed, Path(folder)), data) for bands in CHOICES])
            print(f"seed {seed}: mIoU and IoU of water {np.round(rows[-1], 3).tolist()}", flush=True)
    print(table(100 * np.array(rows)))
    print(f"{time.process_time() - began:.0f} s of CPU")


def segmentor() -> dict:
    """A ResNet of 18 layers and 16 channels with FPN, as mmsegmentation has them."""
    widths, pyramid = [WIDTH * 2**level for level in range(4)], 2 * WIDTH
    steps = EPOCHS * CHIPS["train"] // BATCH
    return config(
        {"type": "ResNetV1c", "depth": 18, "stem_channels": WIDTH, "base_channels": WIDTH},
        {"type": "FPNHead", "in_channels": [pyramid] * 4, "in_index": [0, 1, 2, 3], "channels": pyramid}
        | {"feature_strides": [4, 8, 16, 32]},
        {"type": "FPN", "in_channels": widths, "out_channels": pyramid, "num_outs": 4},
        [{"type": "RandomFlip", "prob": 0.5}, {"type": "PhotoMetricDistortion"}],
        epochs=EPOCHS,
        batch=BATCH,
        rate=RATE,
        decay=0.01,
        schedule={"type": "PolyLR", "power": 0.9, "eta_min": 1e-6, "begin": 0, "end": steps, "by_epoch": False},
    )


def scores(run: Path, data: Path) -> tuple[float, float]:
    """mIoU as the run reports it, and IoU of water of what it predicts, on the test scenes."""
    shared = either = 0
    for row in vladapt.predict(run, [str(data / "test" / "images")]).rows():
        with Image.open(data / "test" / "masks" / f"{Path(row['id']).stem}.png") as mask:
            truth = np.asarray(mask) == CLASSES.index("water")
        outline = row["masks"].get("water")
        water = np.zeros_like(truth) if outline is None else decode(outline).astype(bool)
        shared, either = shared + (truth & water).sum(), either + (truth | water).sum()
    return json.loads((run / "metrics.json").read_text())["adapted"]["mIoU"], shared / either


def draw_map(folder: Path) -> None:
    """One seed with four bands, and its map beside the scene and the truth: FOLDER/map.png."""
    data = write_chips(folder / "chips", 1, CHIPS, SIDE)
    scene, classes = write_scene(folder, 101, 256, 384, empty=0.15)
    run = fit(segmentor(), data, BANDS, 1, folder)
    vladapt.predict(run, [str(scene)], out=str(folder / "maps"))
    with rasterio.open(scene) as raster:
        values, valid = raster.read().astype(float), raster.dataset_mask() > 0
    with rasterio.open(classes) as raster:
        truth = raster.read(1)
    with rasterio.open(folder / "maps" / "maps" / "scene.tif") as raster:
        called = raster.read(1)
        print(raster.crs, raster.transform.to_gdal(), raster.nodata, raster.descriptions, raster.tags(), sep="\n")
    low, high = np.percentile(values[:, valid], (2, 98), axis=1)
    shown = (255 * ((values - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)).astype(np.uint8)
    panels = [shown[:3].transpose(1, 2, 0), np.repeat(shown[3][..., None], 3, axis=2)]
    panels += [COLOURS[np.minimum(each, len(CLASSES))] for each in (truth, called)]
    Image.fromarray(np.concatenate([np.pad(each, ((0, 0), (0, 6), (0, 0))) for each in panels], axis=1)).save(
        folder / "map.png"
    )
    print(f"right: {(called == truth)[valid].mean():.3f} of the pixels with a value; {folder / 'map.png'}")


def table(scored: np.ndarray) -> str:
    """(seeds, three or four bands, metrics) in per cent as Markdown."""
    lines = ["| | three bands | four bands | difference | 95 % interval |", "| --- | ---: | ---: | ---: | ---: |"]
    for place, name in enumerate(("mIoU", "IoU of water")):
        three, four = scored[:, 0, place], scored[:, 1, place]
        gain = four - three
        cells, interval = [f"{of.mean():.1f}" for of in (three, four)], "-"  # of one seed alone
        if len(gain) > 1:
            half = t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            cells = [f"{of.mean():.1f} ± {of.std(ddof=1):.1f}" for of in (three, four)]
            interval = f"{gain.mean() - half:+.1f} to {gain.mean() + half:+.1f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {gain.mean():+.1f} | {interval} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

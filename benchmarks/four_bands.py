"""Drawn land of four bands, in which the infrared alone tells water from shadow.

Dark patches are water or shadow by the toss of a coin. In red, green and blue both are the ground as little light
shows it; in the infrared water is black, and shaded plants are not. Reflectance is stored as Sentinel-2 stores it,
in 16 bits with scale and offset, and bands have names. Masks hold the place of the class in `CLASSES`, 255 where a
scene has no value. `config` and `fit` have a segmentor of mmsegmentation learn it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter, label

import vladapt
from vladapt.core.recipes.resolve import resolve

CLASSES = ("land", "water", "shadow")
BANDS = ("red", "green", "blue", "nir")
SCALE, OFFSET, METRES, NOTHING = 1e-4, -0.1, 10.0, 255
LAND, DARK = np.array([0.10, 0.12, 0.07]), np.array([0.030, 0.036, 0.030])
INFRARED = np.array([0.30, 0.03, 0.10])
"""Of each class."""
PATCHES, SHARE, NOISE, BLUR = 5.0, 0.4, 0.006, 0.6
"""Size of patches in pixels, the share of land that is dark, noise of a pixel, and of the optics in pixels."""


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, height, width) float32 reflectance of red, green, blue and infrared, and (height, width) uint8 classes."""
    field = gaussian_filter(rng.normal(size=(height, width)), PATCHES)
    patches, count = label(field > np.quantile(field, 1 - SHARE))
    classes = np.concatenate([[0], rng.integers(1, len(CLASSES), count)])[patches]
    ground = gaussian_filter(rng.normal(size=(height, width)), 3) * 3  # fields, about one deviation from each other
    light = np.where(classes[None] > 0, DARK[:, None, None], LAND[:, None, None] * (1 + 0.15 * ground))
    infrared = INFRARED[classes] * (1 + 0.15 * ground)
    bands = gaussian_filter(np.concatenate([light, infrared[None]]), (0, BLUR, BLUR))
    bands += rng.normal(scale=NOISE, size=bands.shape)
    return bands.clip(0.001).astype(np.float32), classes.astype(np.uint8)


def write_chips(folder: Path, seed: int, counts: Mapping[str, int], side: int = 64) -> Path:
    """images/NAME.tif and masks/NAME.png below each split, and classes.json, in a folder.

    Args:
        counts: split ("train", "val", "test") -> how many scenes of `side` pixels.
    """
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        for number in range(count):
            bands, classes = draw_scene(rng, side, side)
            left = 500_000 + number * 10 * side * METRES
            write_raster(folder / split / "images" / f"{split}_{number:03d}.tif", bands, left=left)
            mask = folder / split / "masks" / f"{split}_{number:03d}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(classes).save(mask)
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


def write_scene(folder: Path, seed: int, height: int, width: int, empty: float = 0.0) -> tuple[Path, Path]:
    """scene.tif and classes.tif, a large one of each.

    Args:
        empty: share of its width beside which, in the upper right, nothing was seen.
    """
    bands, classes = draw_scene(np.random.default_rng(seed), height, width)
    rows, columns = np.mgrid[:height, :width]
    unseen = (width - columns) / width + rows / height < 2 * empty
    classes[unseen] = NOTHING
    scene = write_raster(folder / "scene.tif", bands, unseen)
    profile = {"driver": "GTiff", "count": 1, "height": height, "width": width, "dtype": "uint8", "nodata": NOTHING}
    with rasterio.open(folder / "classes.tif", "w", **profile, **_place()) as raster:
        raster.write(classes, 1)
    return scene, folder / "classes.tif"


def write_raster(file: Path, bands: np.ndarray, unseen: np.ndarray | None = None, left: float = 500_000) -> Path:
    """Reflectance (4, H, W) as a GeoTIFF of 16 bits with names, scale, offset and nodata 0."""
    stored = np.rint((bands - OFFSET) / SCALE).astype(np.uint16)
    if unseen is not None:
        stored[:, unseen] = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": "uint16"}
    with rasterio.open(file, "w", driver="GTiff", nodata=0, photometric="minisblack", **size, **_place(left)) as raster:
        raster.write(stored)
        raster.descriptions = BANDS
        raster.scales, raster.offsets = (SCALE,) * len(bands), (OFFSET,) * len(bands)
    return file


def config(
    backbone: Mapping[str, Any],
    head: Mapping[str, Any],
    neck: Mapping[str, Any] | None = None,
    augmentation: Sequence[Mapping[str, Any]] = (),
    *,
    epochs: int,
    batch: int,
    rate: float,
    decay: float,
    schedule: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a ResNet, a neck and a head of mmsegmentation, with plain batch norms, trained by AdamW.

    Args:
        augmentation: transforms of training images.
        schedule: of the rate.
    """
    norm = {"type": "BN", "requires_grad": True}
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    scale = {"mean": [127.5] * 3, "std": [64.0] * 3, "bgr_to_rgb": True, "pad_val": 0, "seg_pad_val": 255}
    output = {"num_classes": len(CLASSES), "norm_cfg": norm, "align_corners": False, "dropout_ratio": 0.0}
    output["loss_decode"] = {"type": "CrossEntropyLoss", "use_sigmoid": False}
    return {
        "default_scope": "mmseg",
        "model": {
            "type": "EncoderDecoder",
            "data_preprocessor": {"type": "SegDataPreProcessor", **scale, "size_divisor": 32},
            "backbone": {"norm_cfg": norm, "out_indices": [0, 1, 2, 3], "style": "pytorch", **backbone},
            **({} if neck is None else {"neck": dict(neck)}),
            "decode_head": {**output, **head},
            "train_cfg": {},
            "test_cfg": {"mode": "whole"},
        },
        "train_dataloader": {
            "batch_size": batch,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": {
                "type": "vladapt.SegmentationDataset",
                "path": "sample",
                "pipeline": [*load, *augmentation, {"type": "PackSegInputs"}],
            },
        },
        "test_pipeline": [*load, {"type": "PackSegInputs"}],
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": epochs},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": rate, "weight_decay": decay}},
        "param_scheduler": [dict(schedule)],
    }


def fit(config: Mapping[str, Any], data: Path, bands: Sequence[str], seed: int, folder: Path) -> Path:
    """The run of a segmentor on some bands of `write_chips`."""
    file = folder / "segmentor.json"
    file.write_text(json.dumps(config))
    flags = {"domain": "remote-sensing", "task": "segmentation", "data.path": str(data), "data.bands": ",".join(bands)}
    flags |= {"seed": seed, "workers": 0, "device": "cpu", "out": str(folder / "runs")}
    return vladapt.fit(resolve(config=str(file), flags=flags)).run


def _place(left: float = 500_000) -> dict:
    return {"crs": "EPSG:32633", "transform": from_origin(left, 5_000_000, METRES, METRES)}

"""Feature extraction beside the bare backbone at its best micro-batch.

    python benchmarks/extraction.py

Decoded arrays of 224 x 224 go through the feature store (hashing, keys, micro-batches, writing) and through a plain
loop over the same pixels at the best micro-batch, in turn. Then JPEG files are decoded as well.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vladapt
from vladapt import DomainData, FeatureStore, Item

IMAGES = 600
SIZES = (1, 2, 4, 8, 16, 32)


class AsPixels:
    """A decoded array (3, 224, 224) float32 is its own pixels."""

    spec = {"benchmark": "as it is"}  # noqa: RUF012

    def __call__(self, decoded, seed=None):
        return torch.from_numpy(decoded)


def bare(backbone, pixels: torch.Tensor, size: int) -> float:
    """Images a second of a plain loop."""
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in pixels.split(size):
            backbone.encode_image(batch, False)
    return len(pixels) / (time.perf_counter() - started)


def stored(backbone, data: DomainData, transform) -> float:
    """Images a second through an empty store."""
    with tempfile.TemporaryDirectory() as root:
        os.environ["VLADAPT_CACHE"] = root
        store = FeatureStore()
        started = time.perf_counter()
        store.get_or_compute(data, data.items, backbone, transform)
        return len(data.items) / (time.perf_counter() - started)


def arrays(count: int) -> DomainData:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(3, 224, 224)).astype(np.float32) for _ in range(count)]

    def item(i):
        return Item(
            f"array-{i}", Path(__file__), {"index": i, "digest": hashlib.sha256(b"%d" % i).hexdigest()}, label=0
        )

    return DomainData([item(i) for i in range(count)], ("x",), lambda one: images[one.decode["index"]])


def jpegs(count: int, folder: Path) -> DomainData:
    from vladapt.core.data.unlabelled import read_unlabelled

    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.BICUBIC).save(folder / f"{i}.jpg", quality=90)
    return read_unlabelled([folder])


def main() -> None:
    backbone = vladapt.load_backbone("embedded")
    data = arrays(IMAGES)
    pixels = torch.stack([torch.from_numpy(data.load(item)) for item in data.items])
    bare(backbone, pixels[:32], 1)
    rates = {size: max(bare(backbone, pixels[:96], size) for _ in range(2)) for size in SIZES}
    best = max(rates, key=rates.get)
    print(f"{backbone.device}, {torch.get_num_threads()} threads, backbone 'embedded', images a second")
    print("bare, by micro-batch: " + ", ".join(f"{size}: {rate:.1f}" for size, rate in rates.items()))
    pairs = [(bare(backbone, pixels, best), stored(backbone, data, AsPixels())) for _ in range(3)]
    plain, ours = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"decoded arrays: bare at {best} {plain:.1f}, feature store {ours:.1f}, ratio {ratio:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        files = jpegs(IMAGES, Path(folder))
        print(f"640 x 480 JPEG files: feature store {stored(backbone, files, backbone.preprocess()):.1f}")


if __name__ == "__main__":
    main()

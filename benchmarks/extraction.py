"""Feature extraction compared with the bare backbone at its best micro-batch.

    python benchmarks/extraction.py

Decoded arrays of 224 x 224 go through the feature store (hashing, keys, micro-batches, writing) and through a plain
loop over the same pixels at the best micro-batch, in turn. The first call of a store also finds the best micro-batch,
which it then keeps: both calls are printed. Then the same with decoding of JPEG files.
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
from usage import print_help

import vladapt
from vladapt import DomainData, FeatureStore, Item, Label

IMAGES = 400
SIZES = (1, 2, 4, 8, 16, 32)


class AsPixels:
    """A decoded array (3, 224, 224) float32 is its own pixels."""

    spec = {"benchmark": "as it is"}  # noqa: RUF012

    def __call__(self, decoded, seed=None):
        return torch.from_numpy(decoded)


def bare(backbone, pixels: torch.Tensor, size: int) -> float:
    """Images per second of a plain loop."""
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in pixels.split(size):
            backbone.encode_image(batch, False)
    return len(pixels) / (time.perf_counter() - started)


def stored(store: FeatureStore, backbone, data: DomainData, transform) -> float:
    """Images per second through a store that holds none of them."""
    started = time.perf_counter()
    store.get_or_compute(data, data.items, backbone, transform)
    return len(data.items) / (time.perf_counter() - started)


def arrays(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(3, 224, 224)).astype(np.float32) for _ in range(count)]


def as_data(images: list[np.ndarray], name: str) -> DomainData:
    """The arrays as a data set; another name makes other content of them, which no store holds yet."""

    def item(i):
        digest = hashlib.sha256(f"{name} {i}".encode()).hexdigest()
        return Item(f"{name}-{i}", Path(__file__), {"index": i, "digest": digest}, Label(0))

    return DomainData([item(i) for i in range(len(images))], ("x",), lambda one: images[one.decode["index"]])


def jpegs(count: int, folder: Path) -> DomainData:
    from vladapt.core.data.unlabelled import read_unlabelled

    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.BICUBIC).save(folder / f"{i}.jpg", quality=90)
    return read_unlabelled([folder])


def main() -> None:
    os.environ["VLADAPT_CACHE"] = tempfile.mkdtemp()
    backbone, store = vladapt.load_backbone("embedded"), FeatureStore()
    images = arrays(IMAGES)
    pixels = torch.stack([torch.from_numpy(image) for image in images])
    bare(backbone, pixels[:32], 1)
    rates = {size: max(bare(backbone, pixels[:96], size) for _ in range(3)) for size in SIZES}
    best = max(rates, key=rates.get)
    print(f"{backbone.device}, {torch.get_num_threads()} threads, backbone 'embedded', images per second")
    print("bare, by micro-batch: " + ", ".join(f"{size}: {rate:.1f}" for size, rate in rates.items()))
    first = stored(store, backbone, as_data(images, "first"), AsPixels())
    pairs = [
        (bare(backbone, pixels, best), stored(store, backbone, as_data(images, f"later {i}"), AsPixels()))
        for i in range(5)
    ]
    plain, later = (statistics.median(column) for column in zip(*pairs))
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    print(f"decoded arrays: bare at {best} {plain:.1f}, store {later:.1f}, ratio {ratio:.2f}; first call {first:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        files = jpegs(IMAGES, Path(folder))
        print(f"640 x 480 JPEG files, decoded too: {stored(store, backbone, files, backbone.preprocess()):.1f}")


if __name__ == "__main__":
    print_help(__doc__)
    main()

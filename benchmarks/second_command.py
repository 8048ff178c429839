"""What a second command on many small images costs before any fit, in CPU seconds, beside reading every file.

    python benchmarks/second_command.py [IMAGES] [CLASSES]

JPEGs of 16 to 32 pixels are drawn into class folders (100,000 of 100 classes where nothing is given). The first
command hashes and decodes them; features are drawn and stored, so that no tower runs. The second command then lists the
set, checks it, divides it and looks its features up. The last row is the least that a command could do that remembers
nothing: `os.walk` and the sha256 of each file.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from usage import print_help

from vladapt.core.data.class_folders import read_class_folders
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.verify import drop_unreadable
from vladapt.core.features.store import FeatureStore
from vladapt.core.features.table import FeatureTable, Request

BACKBONE = SimpleNamespace(
    fingerprint="drawn features", embed_dim=64, joint=None, of_parts=False, device=torch.device("cpu")
)
TRANSFORM = SimpleNamespace(spec={"resize": 32})
AT_ONCE = 1024


def draw(folder: Path, images: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    for number in range(images):
        place = folder / f"class {number % classes:03d}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        side = int(generator.integers(16, 33))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(place / f"{number:06d}.jpg", quality=85)


def store_drawn_features(data, store: FeatureStore) -> None:
    request = Request(data, BACKBONE, TRANSFORM, None, "projected", 0, 0, None, None)
    shards, keys = store.folder_of(request.space), FeatureTable(request, data.items, store.hashes).missing()
    for start in range(0, len(keys), AT_ONCE):
        some = keys[start : start + AT_ONCE]
        shards.append(some, np.random.default_rng(start).normal(size=(len(some), BACKBONE.embed_dim)))
    shards.merge()


def timed(name: str, step: Callable):
    before = os.times()
    result = step()
    after = os.times()
    seconds = after.user + after.system - before.user - before.system
    print(f"  {name:28}{seconds:7.2f} s", flush=True)
    return result, seconds


def command(folder: Path, store: FeatureStore | None) -> float:
    """CPU seconds of all that comes before a fit; without a store features are drawn, which does not count."""
    hashes, total = FileHashes(), 0.0
    steps = [
        ("listing", lambda _: read_class_folders(folder)),
        ("checking, thumbnails", lambda data: drop_unreadable(data, hashes)),
        ("dividing, with near copies", lambda data: assign_splits(data, seed=0, hashes=hashes)),
    ]
    if store is not None:
        steps.append(("looking features up", lambda data: store.get_or_compute(data, data.items, BACKBONE, TRANSFORM)))
    result = None
    for name, step in steps:
        result, seconds = timed(name, lambda step=step, result=result: step(result))
        total += seconds
    if store is None:
        store_drawn_features(result, FeatureStore())
    return total


def read_every_file(folder: Path) -> int:
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return len({hashlib.sha256(file.read_bytes()).digest() for file in files})


def main() -> None:
    images, classes = [int(word) for word in sys.argv[1:3]] + [100_000, 100][len(sys.argv[1:3]) :]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["VLADAPT_CACHE"] = f"{temporary}/cache"
        folder = Path(temporary) / "images"
        draw(folder, images, classes)
        print(f"{images:,} images of {classes} classes, the first command")
        command(folder, None)
        print("the second command")
        print(f"  {'in all':28}{command(folder, FeatureStore()):7.2f} s")
        print("os.walk and sha256 of each file")
        timed("", lambda: read_every_file(folder))


if __name__ == "__main__":
    print_help(__doc__)
    main()

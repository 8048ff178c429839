"""Anonymous memory of fits on stored tile features: 100 slides of 20,000 tiles of 1,280 halves, 5 GB.

python benchmarks/bags_memory.py FOLDER [--slides 100] [--tiles 20000] [--method NAME ...]

FOLDER is filled once, and removed with --remove. Each method has a process of its own, whose RssAnon is looked at every
5 ms: its peak is that of the whole process, imports and all, and "added" is what the fit and its answers are of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

WIDTH, CLASSES = 1280, ("no", "yes")
METHODS = {
    "mean-pool (linear-probe)": ("linear-probe", {"C": 1.0}),
    "top-k": ("top-k", {}),
    "abmil": ("abmil", {"epochs": 1}),
    "clam": ("clam", {"epochs": 1}),
    "trans-mil, most_parts=4096": ("trans-mil", {"epochs": 1, "most_parts": 4096}),
}


def fill(folder: Path, slides: int, tiles: int) -> None:
    """Files of TRIDENT's form, of which one tile of each second slide is shifted."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(slides):
        if (path := folder / f"slide_{number:03d}.h5").exists():
            continue
        rng = np.random.default_rng(number)
        rows = rng.standard_normal((tiles, WIDTH), dtype=np.float32).astype(np.float16)
        rows[rng.integers(tiles), 0] += 6 * (number % 2)
        side = int(np.ceil(np.sqrt(tiles)))
        with h5py.File(path.with_suffix(".part"), "w") as file:
            file["features"] = rows
            file["coords"] = np.stack(np.divmod(np.arange(tiles), side), axis=1) * 512
            file["coords"].attrs.update(patch_size=256, patch_size_level0=512)
        path.with_suffix(".part").rename(path)


def anonymous() -> int:
    """Bytes of RssAnon now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


@contextmanager
def peak(made: dict[str, int]) -> Iterator[None]:
    """`made["peak"]`: the most of RssAnon in the block, looked at every 5 ms."""
    done, made["peak"] = threading.Event(), anonymous()

    def watch() -> None:
        while not done.wait(0.005):
            made["peak"] = max(made["peak"], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def measure(folder: Path, method: str) -> None:
    """Print the JSON of one method."""
    import torch

    from vladapt import FeatureSet, TextClassifier, build_adapter
    from vladapt.core.contracts.bags import Bags
    from vladapt.core.features.bag_files import open_bag

    torch.set_num_threads(2)
    name, options = METHODS[method]
    bags = Bags([open_bag(path) for path in sorted(folder.glob("*.h5"))])
    labels = torch.arange(len(bags)) % 2
    texts, adapter = TextClassifier(torch.eye(2, WIDTH), class_names=CLASSES), build_adapter(name, **options)
    before, made, started = anonymous(), {}, time.monotonic()
    with peak(made):
        features = FeatureSet.of_bags(bags, labels=labels, class_names=CLASSES)
        adapter.fit(features, texts, seed=0)
        adapter.logits(features)
    seconds = time.monotonic() - started
    megabytes = {"added_mb": round((made["peak"] - before) / 1e6), "process_mb": round(made["peak"] / 1e6)}
    print(json.dumps({"method": method, "slides": len(bags), **megabytes, "seconds": round(seconds)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, default=100)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--method", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--only", action="store_true", help="measure in this process")
    parser.add_argument("--remove", action="store_true", help="remove FOLDER at the end")
    arguments = parser.parse_args()
    if arguments.only:
        return measure(arguments.folder, arguments.method[0])
    fill(arguments.folder, arguments.slides, arguments.tiles)
    for method in arguments.method:
        subprocess.run([sys.executable, __file__, str(arguments.folder), "--only", "--method", method], check=True)
    if arguments.remove:
        shutil.rmtree(arguments.folder)
    return None


if __name__ == "__main__":
    main()

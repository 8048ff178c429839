"""Trees and roads from above, tested on land not used for training, compared with random folds of the same tiles.

    python benchmarks/remote_sensing_folds.py [neon_trees] [spacenet_road_tiles] [--steps N] [--lr RATE] [--recipe NAME]

For `neon_trees` one source image, known from the names of the tiles, is left out at a time; for `spacenet_road_tiles`,
tiles of one scene called tile_ROW_COL, contiguous blocks of rows are left out. VLADAPT_DATA names the folder of the
data sets. Runs are kept in runs/.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from open_vocab import best_constant

import vladapt
from vladapt.core.contracts.items import DomainData, Item
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.open_vocab.data import write_items
from vladapt.domains.open_vocab.data.masks import IGNORED
from vladapt.domains.remote_sensing import RemoteSensing

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TILE = re.compile(r"_\d+_\d+$")
ROWS_PER_BLOCK = 2
BATCH = 2
SEED = 1
TASKS = {
    "neon_trees": ("detection", "AP50", "objects"),
    "spacenet_road_tiles": ("segmentation", "mIoU", "best constant"),
}
"""Set -> task, score, and what stands beside it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"sets: {', '.join(TASKS)}; all by default")
    parser.add_argument("--steps", type=int, help="per training, in whole epochs; by default the recipe's")
    parser.add_argument("--lr", type=float, help="learning rate; by default the recipe's")
    parser.add_argument("--recipe", help="packaged recipe; by default the task's")
    arguments = parser.parse_args()
    for name in arguments.names or TASKS:
        task, metric, beside = TASKS[name]
        data = RemoteSensing().read(DATA / "remote_sensing" / name, task)
        print(f"\n| {name}: left out | tiles | {beside} | {metric} | minutes |\n| --- | ---: | ---: | ---: | ---: |")
        for title, folds in (("land", by_land(data.items)), ("random", at_random(data.items))):
            scores = []
            for fold, tested in folds.items():
                score, told, minutes = trained(data, tested, task, metric, arguments)
                scores.append(score)
                print(f"| {title}: {fold} | {len(tested)} | {told} | {score:.3f} | {minutes:.1f} |", flush=True)
            print(f"| {title}: mean of folds | {len(data.items)} | | {sum(scores) / len(scores):.3f} | |", flush=True)


def by_land(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Fold -> its tiles: those of one source image, or where all are of one, of neighbouring rows."""
    sources = grouped(items, lambda item: TILE.sub("", Path(item.source).stem))
    if len(sources) > 1:
        return sources
    row_of = {item.id: int(Path(item.source).stem.split("_")[-2]) for item in items}
    return grouped(items, lambda item: f"rows from {row_of[item.id] // ROWS_PER_BLOCK * ROWS_PER_BLOCK}")


def at_random(items: Sequence[Item]) -> dict[str, list[Item]]:
    """As many folds of tiles drawn without regard to where they lie, as large as each other."""
    count, drawn = len(by_land(items)), sorted(items, key=lambda item: item.id)
    random.Random(SEED).shuffle(drawn)
    return {f"fold {number + 1}": drawn[number::count] for number in range(count)}


def grouped(items: Sequence[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """Key -> its items, in the order of keys."""
    groups: dict[str, list[Item]] = {}
    for item in sorted(items, key=lambda item: (key(item), item.id)):
        groups.setdefault(key(item), []).append(item)
    return groups


def trained(data: DomainData, tested: Sequence[Item], task: str, metric: str, arguments) -> tuple[float, str, float]:
    """Score on the tiles that are left out; their objects, or of masks what the best constant reaches; minutes."""
    started, out = time.monotonic(), {item.id for item in tested}
    fold = data.with_items(list(split(data.items, out)))
    with tempfile.TemporaryDirectory() as folder:
        file = write_items(Path(folder) / "fold.json", fold)
        per_epoch = math.ceil(len(fold.split("train")) / BATCH)
        epochs = math.ceil(arguments.steps / per_epoch) if arguments.steps else None
        flags = {"domain": "remote-sensing", "task": task, "data.path": str(file)}
        flags |= {"adapter.epochs": epochs, "adapter.lr": arguments.lr, "batch_size": BATCH}
        flags = {key: value for key, value in flags.items() if value is not None}
        result = vladapt.fit(resolve(recipe=arguments.recipe, flags=flags))
    if data.load_mask is None:
        told = str(sum(result.metrics["objects"].values()))
    else:
        shown = np.concatenate([data.load_mask(item).ravel() for item in tested])
        told = f"{best_constant(np.bincount(shown[shown != IGNORED])):.3f}"
    return result.metrics["adapted"][metric], told, (time.monotonic() - started) / 60


def split(items: Sequence[Item], tested: set[str]) -> Iterator[Item]:
    """Tested ones, and of the others all for training: nothing is chosen on val, so one tile is enough for it."""
    rest = [item.id for item in items if item.id not in tested]
    for item in items:
        part = "test" if item.id in tested else "val" if item.id == rest[0] else "train"
        yield item.with_(split=part, group=None)


if __name__ == "__main__":
    main()

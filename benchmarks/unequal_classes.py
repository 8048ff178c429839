"""Balanced accuracy of methods that train prompts or towers, on growing sets with classes of unequal size.

    python benchmarks/unequal_classes.py          # prints the table
    python benchmarks/unequal_classes.py page     # writes it into docs/measurements/adapters.md

Small drawn images of four classes, with 2, 5, 15 and 60 images to learn from, on the small CLIP of `vladapt.testing`,
whose weights are random: this measures the effect of class_weight, not the quality of the methods. A set has up to 4 or
16 images per class, or all of them; the test set has 30 of each. Methods run in short versions. Numbers are means of 3
draws, in percent. tests/adapters/test_unequal_classes.py tests the same for methods on features.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from usage import print_help

from vladapt import build_adapter, build_classifier
from vladapt.core.contracts import Item
from vladapt.core.metrics.classification import classification_metrics
from vladapt.core.testing.towers import small_clip
from vladapt.core.testing.world import TEMPLATES, World, drawn_item

SIZES = (2, 5, 15, 60)
SHOTS = (4, 16, None)
DRAWS, TEST = 3, 30
SLACK = 2.0
"""Points by which the mean may fall from one size to the next."""
METHODS: dict[str, dict[str, Any]] = {
    "coop": {"n_ctx": 4, "epochs": 10, "lr": 0.05, "csc": True},
    "kgcoop": {"epochs": 10, "lr": 0.05, "guidance": 1.0, "batch_size": 32, "csc": True},
    "projection": {"views": 0, "lr": 1e-2, "penalty": 1e-3, "epochs": 50},
    "wise-ft": {"freeze_encoder": True, "epochs": 30, "lr": 1e-1, "batch_size": 32},
    "lora": {"epochs": 8, "lr": 0.02, "batch_size": 8},
    "maple": {"epochs": 8, "lr": 0.1, "batch_size": 8},
}
PAGE = Path(__file__).parent.parent / "docs" / "measurements" / "adapters.md"
BEGIN, END = "<!-- table: written by benchmarks/unequal_classes.py page -->", "<!-- end of that table -->"


def main() -> None:
    lines = []
    for line in rows():
        print(line, flush=True)
        lines.append(line)
    if sys.argv[1:] == ["page"]:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        table = "\n".join(lines)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def rows() -> Iterator[str]:
    """Markdown, one row per method; below it those that fall by more than `SLACK` points."""
    names = [shots or "all" for shots in SHOTS]
    yield (
        "| method | "
        + " | ".join(f"balanced, {name}" for name in names)
        + " | "
        + (" | ".join(f"none, {name}" for name in names) + " |")
    )
    yield "|---|" + "---:|" * (2 * len(SHOTS))
    zero_shot = means("zero-shot", {})
    yield f"| zero-shot | {_cells(zero_shot)} | {_cells(zero_shot)} |"
    falls = []
    for method, options in METHODS.items():
        balanced, plain = (means(method, {**options, "class_weight": weight}) for weight in ("balanced", "none"))
        yield f"| `{method}` | {_cells(balanced)} | {_cells(plain)} |"
        drops = [before - after for before, after in pairwise(balanced)]
        falls += [f"`{method}` by {drop:.1f}" for drop in drops if drop > SLACK]
    yield ""
    yield f"Falls of more than {SLACK:.0f} points with `class_weight=balanced`: {', '.join(falls) or 'none'}."


def means(method: str, options: dict[str, Any]) -> list[float]:
    """The mean balanced accuracy of the draws for each of `SHOTS`, in percent."""
    scores = [[balanced_accuracy(method, options, shots, draw) for draw in range(DRAWS)] for shots in SHOTS]
    return [100 * sum(each) / len(each) for each in scores]


def balanced_accuracy(method: str, options: dict[str, Any], shots: int | None, draw: int) -> float:
    world = world_of([min(size, shots or size) for size in SIZES], draw)
    adapter = world.fit(build_adapter(method, **options), seed=draw).adapter
    truth = torch.tensor([item.class_label() for item in world.items["test"]])
    return classification_metrics(world.logits(adapter), truth, len(SIZES))["balanced_accuracy"]


def world_of(counts: list[int], draw: int) -> World:
    """Images to learn from, a fifth as many for val, and the test; fewer to learn from are the first of more."""
    items = {
        "support": _drawn("support", counts, draw),
        "val": _drawn("val", [max(1, count // 5) for count in counts], draw),
        "test": _drawn("test", [TEST] * len(counts), draw),
    }
    items["folder"] = items["support"]
    names = tuple(f"colour {number}" for number in range(len(counts)))
    return World(small_clip(), build_classifier(small_clip(), names, TEMPLATES), items)


def _drawn(split: str, counts: list[int], draw: int) -> list[Item]:
    start = 100_000 * draw + {"support": 0, "val": 20_000, "test": 40_000}[split]
    return [
        drawn_item(split, start + 1000 * label + number, label, len(counts), False)
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def _cells(values: list[float]) -> str:
    return " | ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    print_help(__doc__)
    main()

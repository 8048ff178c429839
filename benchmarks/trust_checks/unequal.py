"""Balanced accuracy as unequal sets grow: 4, 16 and all labels, with the classes weighted alike and as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from vladapt.core.contracts.parts import ClassWeighting, part_of
from vladapt.core.metrics.classification import classification_metrics
from vladapt.core.registry import adapter_class, build_adapter, catalogue
from vladapt.core.tasks.classification.contest import RepeatedSplits
from vladapt.core.tasks.classification.fitting import fit_adapter

from .sets import QUIET, drawn_classes, prepared, prepared_at

SHOTS = (4, 16, None)
SEEDS = 5
SIZES = [2, 4, 9, 20, 45, 100, 200]
"""Images of each drawn class to learn from."""
ON_FEATURES = frozenset({"features", "views"})
SHORT = {
    "clip-adapter": {"epochs": 20},
    "cross-modal": {"iterations": 1000, "lr": 1e-3, "weight_decay": 0.01, "batch_size": 32},
    "nmtune": {"epochs": 5, "ratio": 1},
}
"""Options that keep the measurement short."""
SLACK = 2.0
"""Points that more labels may cost."""


def lines(data: Path) -> Iterator[str]:
    """A row per method on features; columns for the blood cells and for drawn classes."""
    with tempfile.TemporaryDirectory() as folder:
        sets = {"Gaussians": _gaussians(Path(folder))}
        cells = prepared(data, "blood cells")
        if cells is not None:
            repeated = RepeatedSplits(cells, 1, SEEDS)
            sets = {"blood cells": [repeated[number] for number in range(SEEDS)], **sets}
        yield f"| method | {' | '.join(f'{name} | unweighted' for name in sets)} |"
        yield f"|---|{'---:|---:|' * len(sets)}"
        for name in methods():
            cells = []
            for splits in sets.values():
                cells.append(_cell(growth(splits, name)))
                weighted = part_of(adapter_class(name), ClassWeighting) is not None
                cells.append(_cell(growth(splits, name, class_weight="none")) if weighted else "–")
            yield f"| `{name}` | {' | '.join(cells)} |"


def methods() -> list[str]:
    """Those that learn on features alone."""
    learning = sorted(name for name, entry in catalogue.adapters().items() if entry.entry_point is None)
    return [name for name in learning if adapter_class(name).needs <= ON_FEATURES and name != "zero-shot"]


def growth(splits: Sequence[Any], name: str, **options: Any) -> list[float]:
    """Mean balanced accuracy in percent over the splits, for each number of shots."""
    return [fmean(_score(split, name, shots, seed, options) for seed, split in enumerate(splits, 1)) for shots in SHOTS]


def _score(split, name: str, shots: int | None, seed: int, options: dict[str, Any]) -> float:
    drawn = split.draw(shots, seed)
    adapter = build_adapter(name, **SHORT.get(name, {}), **options)
    fit_adapter(adapter, split, drawn, seed, QUIET)
    found = classification_metrics(adapter.logits(drawn.test), drawn.test.labels, len(split.class_names))
    return 100 * found["balanced_accuracy"]


def _gaussians(folder: Path) -> list[Any]:
    """Sets of seven classes of 2 to 200 images, tested on 60 of each."""
    counts = {"train": SIZES, "val": [max(1, size // 5) for size in SIZES], "test": [60] * len(SIZES)}
    return [prepared_at(str(drawn_classes(folder / f"{seed}.npz", seed, counts))) for seed in range(SEEDS)]


def _cell(values: Sequence[float]) -> str:
    """ "40 · 55 · 60", an arrow down where more labels cost more than `SLACK` points."""
    shown = f"{values[0]:.0f}"
    for before, after in pairwise(values):
        shown += f" {'↓' if after < before - SLACK else '·'} {after:.0f}"
    return shown

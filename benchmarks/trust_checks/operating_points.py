"""The sensitivity, or specificity, that new images have where one was wished for: whole fits on drawn images, each with
its own labelled images, and many test images by which the truth is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np

import vladapt

DRAWS, WISHED, DIM, SHIFT, TESTED = 12, 0.9, 12, 2.2, 4000
UNITS, EACH = 40, {"images": 1, "patients of 4 images": 4}
"""Labelled units of the side that is wished for, with twice as many of the other; and images of each unit."""


def drawn(file: Path, seed: int, units: int, each: int, of_sick: bool) -> Path:
    """A features file of sick and healthy units: those to learn from, 60 to choose settings on, and the test images."""
    generator = np.random.default_rng(seed)
    sick, split = [], []
    for name, count in (("train", 3 * units), ("val", 60), ("test", TESTED // each)):
        chosen = np.arange(count) % 3 == 0
        sick.append(chosen if of_sick else ~chosen)
        split += [name] * count
    truth, split = np.repeat(np.concatenate(sick), each), np.repeat(split, each)
    own = np.repeat(generator.normal(size=(len(truth) // each, DIM)), each, axis=0)
    noise = generator.normal(size=(len(truth), DIM))
    rows = (noise if each == 1 else 0.7 * (own + noise)) + SHIFT * np.outer(truth, np.eye(DIM)[0])
    arrays = {"image_features": rows.astype("f4"), "text_features": np.eye(DIM, dtype="f4")[[1, 0]], "split": split}
    named = {"labels": truth.astype(int), "class_names": np.array(["healthy", "sick"])}
    groups = np.repeat([f"patient {number}" for number in range(len(truth) // each)], each)
    np.savez(file, **arrays, **named, **({} if each == 1 else {"groups": groups}))
    return file


def reached(side: str, units: int, each: int, assured: bool, draws: int = DRAWS) -> list[float]:
    """The true sensitivity, or specificity, of each draw's operating point."""
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(draws):
            file = drawn(Path(folder) / f"{seed}.npz", seed, units, each, side == "sensitivity")
            how = {"adapter": "ridge", "shots": "all", "operating_point": f"{side}={WISHED}", "assured": assured}
            made = vladapt.fit(features=str(file), out=str(Path(folder) / "runs"), **how)
            rates.append(made.metrics["operating_point"]["points"]["sick"]["rates"][side])
    return rates


def lines(data: Path) -> Iterator[str]:
    """A row per side, of images and of patients."""
    yield "| wished for 90 % | labelled units of that side | on average | below 90 % | with `--assured` | below 90 % |"
    yield "|---|---:|---:|---:|---:|---:|"
    for side, (name, each) in product(("sensitivity", "specificity"), EACH.items()):
        cells = []
        for assured in (False, True):
            shares = [100 * share for share in reached(side, UNITS, each, assured)]
            below = sum(share < 100 * WISHED for share in shares)
            cells.append(f"{fmean(shares):.1f} ± {pstdev(shares):.1f} | {below} of {len(shares)}")
        yield f"| {side} | {UNITS} {name} | {' | '.join(cells)} |"

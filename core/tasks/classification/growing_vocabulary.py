"""`eval --vocabulary-steps`: how a run and zero-shot stand a vocabulary that grows to all classes of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ...errors import CapabilityError, ConfigError
from ...metrics.vocabulary_growth import divided_classes, growing_orders, vocabulary_growth
from ...runs.sections import Measure, TableSection
from .scoring import Scores

TRIALS = 3
"""Orders of the other classes for each target, as published."""
SIDES = {"zero_shot": "zero-shot", "adapted": "adapted"}
SHARE = Measure("")
WORDS = (
    "The classes are divided into groups at random. Each group is once the whole vocabulary, to which the other groups "
    "are then added, in up to three orders. Extensibility is the accuracy on all images of the classes so far, "
    "stability that on images of the first group; their means are over the vocabularies. The scores of the run are "
    "compared among the classes of a vocabulary; nothing is fitted again."
)


def check_steps(steps: int, classes: int, several: bool) -> None:
    """Refuse steps that no images of so many classes can be scored in.

    Raises:
        CapabilityError: images have several labels. ConfigError: there are too few classes, or fewer than two steps.
    """
    if several:
        raise CapabilityError(
            f"--vocabulary-steps {steps}: only for one label per image, and these have several; omit it"
        )
    if not 2 <= steps <= classes:
        raise ConfigError(f"--vocabulary-steps {steps}: give 2 to {classes}, the number of classes")


def growth_of(scores: Scores, classes: int, steps: int, seed: int) -> dict[str, Any]:
    """What "vocabulary" holds in metrics.json: "steps", "trials", "classes_by_step", and of each side of the scores the
    numbers of `VocabularyGrowth`.

    Raises:
        CapabilityError: there are no labels. ConfigError: too few classes have images.
    """
    if scores.labels is None:
        raise CapabilityError(f"--vocabulary-steps {steps}: these images have no labels; omit it")
    if (shown := len(scores.labels.unique())) < steps:
        raise ConfigError(
            f"--vocabulary-steps {steps}: only {shown} of {classes} classes have images here; give at most {shown}"
        )
    group = divided_classes(scores.labels, classes, steps, seed)
    orders = growing_orders(steps, TRIALS, seed)
    sizes = torch.bincount(group, minlength=steps).double()[torch.tensor(orders)].cumsum(dim=1).mean(dim=0)
    sides = {"zero_shot": scores.zero_shot_logits, "adapted": scores.adapted_logits}
    return {
        "steps": steps,
        "trials": TRIALS,
        "classes_by_step": [round(size, 2) for size in sizes.tolist()],
        **{
            side: None if logits is None else asdict(vocabulary_growth(logits, scores.labels, group, orders))
            for side, logits in sides.items()
        },
    }


def growth_table(growth: Mapping[str, Any]) -> Table:
    """For the terminal."""
    options = {"title_justify": "left", "box": SIMPLE_HEAD, "pad_edge": False}
    header, rows = _cells(growth)
    table = Table(title=f"A vocabulary that grows in {growth['steps']} steps", **options)
    for name in header:
        table.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        table.add_row(*row)
    return table


def growth_section(growth: Mapping[str, Any]) -> TableSection:
    """For the report."""
    header, rows = _cells(growth)
    return TableSection(f"A vocabulary that grows in {growth['steps']} steps", header, rows, note=WORDS)


def _cells(growth: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row per number of classes and one of the means; extensibility and stability of each side."""
    sides = {side: words for side, words in SIDES.items() if growth[side] is not None}
    header = ["classes", *(f"{words}, {score}" for words in sides.values() for score in ("extensibility", "stability"))]
    rows = []
    for step, size in enumerate(growth["classes_by_step"]):
        row = [f"{size:g}"]
        for side in sides:
            of = growth[side]
            kept = None if step == 0 else of["stability_by_step"][step - 1]
            row += [SHARE.text(of["extensibility_by_step"][step]), SHARE.text(kept)]
        rows.append(row)
    means = [SHARE.text(growth[side][score]) for side in sides for score in ("extensibility", "stability")]
    return header, [*rows, ["mean", *means]]

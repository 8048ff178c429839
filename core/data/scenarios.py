"""Few-shot draws whose classes are as unequal as those they come from, as SS-Text's evaluation makes them.

Few-Shot, Now for Real: Medical VLMs Adaptation without Balanced Sets or Validation, 2025, arXiv 2506.17500; rows and
counts are those of the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..contracts.domain import Item
from ..errors import CapabilityError, ConfigError
from .sampling import sample_shots

STANDARD, RELAXED, REALISTIC = SCENARIOS = ("standard", "relaxed", "realistic")


def draw_shots(
    items: Sequence[Item], shots: int | None, seed: int, *, num_classes: int, scenario: str | None = None
) -> list[Item]:
    """K per class as `sample_shots` has it, or as unequal as a scenario wants them.

    Raises:
        ConfigError: as of both; all images are asked for in a scenario.
    """
    if scenario is None:
        return sample_shots(items, shots, seed, num_classes=num_classes)
    if not shots:
        raise ConfigError(f"--protocol {scenario}: give a number of shots, 1 or more")
    return scenario_shots(items, shots, seed, num_classes=num_classes, scenario=scenario)


def scenario_shots(items: Sequence[Item], shots: int, seed: int, *, num_classes: int, scenario: str) -> list[Item]:
    """K labelled items per class on average, grouped by class in class order.

    Args:
        items: candidates, in the order of the data set.
        shots: K.
        seed: fixes the choice.
        num_classes: C.
        scenario: as for `scenario_rows`.

    Raises:
        CapabilityError: items have several labels.
    """
    labelled = [item for item in items if item.class_label() is not None]
    labels = [item.class_label() for item in labelled]
    if any(isinstance(label, tuple) for label in labels):
        raise CapabilityError(f"--protocol {scenario}: for one class per image; these images have several labels")
    return [labelled[row] for row in scenario_rows(np.array(labels, dtype=int), shots, seed, num_classes, scenario)]


def scenario_rows(labels: np.ndarray, shots: int, seed: int, num_classes: int, scenario: str) -> list[int]:
    """Rows that are drawn, class by class.

    Args:
        labels: (N,) class indices of the pool.
        shots: K; C K rows are wanted.
        seed: each class's rows are shuffled by it anew.
        num_classes: C.
        scenario: "standard": K of each class; "relaxed": as many as its share of the pool, one at least; "realistic":
            the same, and a rare class may have none. A class gives no more than it has, and nothing fills the gap.
    """
    pool = np.bincount(labels, minlength=num_classes)
    rows: list[int] = []
    for label, count in enumerate(scenario_counts(pool, shots, scenario)):
        of_class = np.flatnonzero(labels == label)
        np.random.RandomState(seed).shuffle(of_class)
        rows += of_class[:count].tolist()
    return rows


def scenario_counts(pool: np.ndarray, shots: int, scenario: str) -> list[int]:
    """(C,) rows wanted of each class: their shares of C K rounded to even, the largest cut while there are too many.

    Args:
        pool: (C,) rows of each class.
        shots, scenario: as of `scenario_rows`.
    """
    wanted, classes = len(pool) * shots, len(pool)
    shares = np.full(classes, 1 / classes) if scenario == STANDARD else pool / pool.sum()
    counts = [round(wanted * share) for share in shares]
    if scenario != REALISTIC:
        counts = [max(1, count) for count in counts]
    while sum(counts) > wanted:
        counts[int(np.argmax(counts))] -= 1
    return counts

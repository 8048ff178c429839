"""Published accuracies, by which numbers of ours are told: the table `published_results.json`, one row per line.

A row says the method, the backbone (its alias in `core/backbones/published.json`), the protocol, the set, the accuracy
in percent per number of shots ("any" where no shot is looked at) and where the number was read. The set "eleven" is the
mean over the sets of the few-shot protocol. Under "means" stand those of methods without labels over sets of which we
know not all, with zero-shot's: there gains alone can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...backbones.specs import alias_of
from ...contracts.recipe import AUTO, Recipe

TABLE = Path(__file__).with_name("published_results.json")
ELEVEN = "eleven"


@dataclass(frozen=True)
class PublishedResult:
    """One number.

    Args:
        accuracy: a share.
        source: where it was read.
    """

    accuracy: float
    source: str

    @property
    def columns(self) -> dict[str, Any]:
        """As a row of a comparison has it."""
        return {"published": self.accuracy, "published_in": self.source}


@dataclass(frozen=True)
class Setting:
    """What a published number is of; only where all is the same are two numbers comparable.

    Args:
        backbone: the spec of a run.
        protocol: its name.
        set: the name of the published set, or `ELEVEN`.
        tasks: the kind of tasks, of protocols that have several; else "".
    """

    backbone: str
    protocol: str
    set: str
    tasks: str = ""

    def result(self, method: str, shots: int | None) -> PublishedResult | None:
        """The published number of a method; None where none is known."""
        alias = alias_of(self.backbone)
        row = _rows().get((method, alias, self.protocol, self.set, self.tasks))
        if row is None:
            return None
        accuracy = row["accuracy"].get("any", row["accuracy"].get(str(shots)))
        return None if accuracy is None else PublishedResult(accuracy / 100, row["source"])


def results_of(backbone: str) -> list[dict[str, Any]]:
    """All rows of a backbone, named by its alias or spec."""
    alias = alias_of(backbone)
    return [row for row in _table()["results"] if row["backbone"] == alias]


def means_of(backbone: str) -> list[dict[str, Any]]:
    """Means over sets of which we know not all, of a backbone named by its alias or spec."""
    alias = alias_of(backbone)
    return [row for row in _table()["means"] if row["backbone"] == alias]


def setting_of(recipe: Recipe, prepared: Any, tasks: str = "") -> Setting | None:
    """What numbers of a recipe are of, in the words of papers; None where none can be the same: without a protocol, on
    a set that was not recognised, on some of its classes, with other prompts or settings than its own, with images of
    another size, or from a features file, which does not say by which model it was made."""
    others = (recipe.classes, recipe.templates, recipe.descriptions, recipe.image_size)
    options = [key for key in recipe.given if key.startswith(("adapter.", "adapters")) and key != "adapter.name"]
    changed = any(each is not None for each in others) or recipe.preset != AUTO or bool(options)
    if recipe.protocol is None or prepared.backbone is None or prepared.data.published is None or changed:
        return None
    return Setting(recipe.backbone, recipe.protocol, prepared.data.published, tasks)


def note_on_published(setting: Setting | None, method: str, shots: int | None, accuracy: float | None) -> list[str]:
    """What a run says of the published number beside its own."""
    result = None if setting is None or accuracy is None else setting.result(method, shots)
    if result is None:
        return []
    points = f"{100 * (accuracy - result.accuracy):+.1f}".replace("-", "−")
    return [
        f"published for {method} under {setting.protocol} on {setting.set}, mean over seeds: {result.accuracy:.1%} "
        f"({result.source}); this run differs by {points} points"
    ]


def are_eleven(sets: Iterable[str | None]) -> bool:
    """Whether these are the sets of the few-shot protocol, each once."""
    sets = list(sets)
    return len(sets) == len(set(sets)) and set(sets) == set(_table()["eleven"])


@lru_cache(maxsize=1)
def _rows() -> dict[tuple[str, ...], dict[str, Any]]:
    keys = ("method", "backbone", "protocol", "set")
    return {(*(row[key] for key in keys), row.get("tasks", "")): row for row in _table()["results"]}


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))

"""Files that a domain writes of new images in place of one row per image, as maps of rasters; `Domain.write_own`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .domain import DomainData


@dataclass
class OwnFiles:
    """What was written.

    Attributes:
        facts: JSON-able dicts with the same keys, of whatever the files tell of.
        columns: title -> format of a fact ("{share:.1%}") of the table that a user sees; empty where a value is None.
        files: that were written.
        skipped: (id, reason) of images that were left out.
        notes: sentences for the user.
    """

    facts: list[dict[str, Any]]
    columns: Mapping[str, str]
    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """The facts."""
        return self.facts

    def cells(self) -> list[list[str]]:
        """The facts as texts, in the order of the columns."""
        return [[_text(fact, form) for form in self.columns.values()] for fact in self.facts]


class Scorer(ABC):
    """A fitted run that scores new images, some at a time; its model is loaded once, and nothing is stored.

    Attributes:
        class_names: the C names.
        multilabel: whether an image may have several labels.
        fingerprint: text that changes with whatever its scores depend on, besides the images.
    """

    class_names: tuple[str, ...]
    multilabel: bool
    fingerprint: str

    @abstractmethod
    def score(self, data: DomainData) -> tuple[list[str], Tensor, list[tuple[str, str]]]:
        """Ids of the N images that could be read, (N, C) probabilities, and (id, reason) of the others."""


def _text(fact: Mapping[str, Any], form: str) -> str:
    try:
        return form.format(**fact)
    except TypeError:  # of None
        return ""

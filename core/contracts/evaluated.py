"""What `Task.evaluate` gives: the scores of a run on images, and what is said of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .judgement import Record


@dataclass(frozen=True, eq=False)
class Evaluated(Record):
    """The scores of a run on a split. It is a Mapping too, with the keys that `vladapt eval --json` prints.

    Attributes:
        run, data, split: what was scored, by their names.
        metrics: of these images, by the keys of metrics.json: "zero_shot", "adapted", "test_images", ...
        in_fit: what is known of images that were in the fit, of `in_the_fit`.
        notes: sentences for the user; None where the task says none.
        skipped: (image, reason) of what could not be read.
    """

    run: str
    data: str
    split: str
    metrics: Mapping[str, Any]
    in_fit: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] | None = None  # type: ignore[assignment]  # a field in place of a property
    skipped: Sequence[Sequence[str]] = ()

    def values_by_key(self) -> dict[str, Any]:
        notes = {} if self.notes is None else {"notes": self.notes}
        told = {"run": self.run, "data": self.data, "split": self.split, **self.in_fit, **self.metrics, **notes}
        return {**told, "skipped": self.skipped}

    @property
    def words(self) -> str:
        """How many of the images were in the fit, in a sentence; "" where that is not known."""
        return self.in_fit.get("in_fit_words", "")

    @classmethod
    def returned(cls, result: Evaluated | Mapping[str, Any], title: str) -> Evaluated:
        """What a task gave; a task of another package may still give a dictionary, which is deprecated.

        Args:
            title: of the task, for the warning.
        """
        if isinstance(result, Evaluated):
            return result
        warnings.warn(
            f"{title}: evaluate() returns a dictionary; return a vladapt.Evaluated",
            DeprecationWarning,
            stacklevel=2,
        )
        own = ("run", "data", "split", "notes", "skipped")
        metrics = {key: value for key, value in result.items() if key not in own and not key.startswith("in_fit")}
        known = {key: value for key, value in result.items() if key.startswith("in_fit")}
        run, data, split = (str(result.get(key, "")) for key in own[:3])
        return cls(run, data, split, metrics, known, result.get("notes"), result.get("skipped") or ())

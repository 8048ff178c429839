"""What a task that trains an mmengine config made: a training with its scores, or predictions for some images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine import Config
from torch import nn

from ...contracts.backbone import Backbone
from ...contracts.domain import Evaluation
from ...contracts.items import DomainData, Item
from ...contracts.output_kind import LabelMap


@dataclass
class ConfigPredictions:
    """What a trained model says of some images: the task's own rows, one per image.

    Attributes:
        sources: id -> the items that it was found in, windows of one picture.
        label_map: id -> what was outlined; None of tasks that outline nothing.
        labels: what was found as a data set of labels, where a kind of output is made of it.
    """

    task_rows: list[dict[str, Any]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sources: Mapping[str, Sequence[Item]] = field(default_factory=dict, repr=False)
    label_map: Callable[[str], LabelMap] | None = field(default=None, repr=False)
    labels: Any = field(default=None, repr=False)

    @property
    def ids(self) -> list[str]:
        """Of the rows."""
        return [row["id"] for row in self.task_rows]

    def rows(self, top: int = 3) -> list[dict[str, Any]]:
        """The task's rows, each with its `id`."""
        return self.task_rows


@dataclass
class FittedConfig:
    """A training and its scores.

    Args:
        data: the chosen ones; their notes are of the data that the training saw.
        plan, model: None where there was nothing to train.
        history: a row for some of the steps.
        scores: on the test part.
    """

    data: DomainData
    backbone: Backbone
    plan: Config | None
    model: nn.Module | None
    history: list[dict[str, float]]
    scores: Evaluation

    @property
    def taught_by(self) -> tuple[str, ...]:
        """Splits that the training saw."""
        return ("train", "val") if self.plan is not None and self.plan.get("train_cfg") else ()

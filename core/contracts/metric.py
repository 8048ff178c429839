"""Metrics of a domain's own, that a classification reports besides the usual ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Metric(ABC):
    """Base of metrics of a domain's own; `Domain.metrics` names those that are reported.

    Class attributes:
        name: its name, and its key in metrics.json.
        multilabel: whether it takes several labels per image too.
    """

    name: ClassVar[str] = ""
    multilabel: ClassVar[bool] = False

    @abstractmethod
    def compute(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> float | dict[str, float]:
        """The metric on a test set.

        Args:
            logits: (N, C) float32, on the CPU.
            labels: (N,) int64, or (N, C) of 0, 1 and NaN (unknown).
            class_names: C names.

        Returns:
            A value, or several by what they are of: {"left": 0.5} becomes "NAME/left". Shares lie in 0..1.
        """

    def values(self, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, float]:
        """`compute`, by the keys of metrics.json."""
        computed = self.compute(logits, labels, class_names)
        if isinstance(computed, dict):
            return {f"{self.name}/{part}": float(value) for part, value in computed.items()}
        return {self.name: float(computed)}

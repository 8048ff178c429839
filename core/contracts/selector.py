"""A selector: which images of an unlabelled pool are worth labelling next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import CapabilityError, ConfigError
from .options import settle
from .shown import in_short


@dataclass(frozen=True)
class Pool:
    """What a selector sees. Rows are positions among all N images of the pool, labelled ones included.

    Args:
        features: (N, D) unit rows.
        candidates: (M,) int64 rows that may be chosen.
        labelled: (L,) int64 rows whose label is known, or that were chosen already and will have one.
        counts: (C,) float32, labelled images per class.
        probabilities: (N, C) of the current model, zero-shot's at first; None where there is no model.
    """

    __repr__ = in_short

    features: Tensor
    candidates: Tensor
    labelled: Tensor
    counts: Tensor
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(eq=False, kw_only=True)
class Selector(ABC):
    """Base of all selectors: one file in `adapters/selection/selectors/`, one subclass, its options as `option` fields,
    the paper in its docstring.

    Class attributes:
        name: set by the registry, from the file.
        by_predictions: whether it reads `Pool.probabilities`.
    """

    name: ClassVar[str] = ""
    by_predictions: ClassVar[bool] = True

    def __post_init__(self):
        settle(self, f"selector '{self.name}'")

    def select(self, pool: Pool, count: int, seed: int = 0) -> list[int]:
        """Rows to label, each once, in the order in which they are chosen.

        Args:
            pool: with at least `count` candidates.
            count: how many.
            seed: fixes all that is random.

        Raises:
            ConfigError: more rows than there are candidates. CapabilityError: it needs predictions, and there are none.
        """
        if not 0 <= count <= len(pool.candidates):
            raise ConfigError(
                f"selector '{self.name}': {count} images are asked for, there are {len(pool.candidates)} candidates; "
                "ask for fewer"
            )
        if self.by_predictions and pool.probabilities is None:
            raise CapabilityError(
                f"selector '{self.name}' needs a model's predictions, and there are neither labels nor class texts; "
                "use random or coreset first"
            )
        return self._select(pool, count, seed) if count else []

    @abstractmethod
    def _select(self, pool: Pool, count: int, seed: int) -> list[int]:
        """`select`, of at least one row."""

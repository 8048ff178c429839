"""How a fitted method is tested on a data set that it was not fitted on: with new classes, or with some of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.items import spoken
from ...errors import CapabilityError, DataError, did_you_mean
from ...registry import adapter_class, catalogue


class Transfer(ABC):
    """Base of the two ways."""

    @abstractmethod
    def check(self, adapter: Adapter) -> None:
        """Raise the CapabilityError of a method that cannot be tested so."""

    @abstractmethod
    def onto(self, adapter: Adapter, prepared: Any) -> tuple[Adapter, TargetColumns | None]:
        """What gives logits on the target, and which of them are its classes'; None where they are so already.

        Args:
            adapter: fitted on the source.
            prepared: the target.

        Raises:
            DataError: the target has a class that there are no scores for.
        """


class NewClasses(Transfer):
    """Classes that the fit never saw: the method has scores for any names, as a learned prompt has."""

    def check(self, adapter: Adapter) -> None:
        if "new_classes" not in adapter.can:
            able = [name for name in catalogue.adapters() if "new_classes" in adapter_class(name).can]
            raise CapabilityError(
                f"--protocol cross-dataset: adapter '{adapter.name}' has no scores for classes it never saw; these "
                f"have: {', '.join(able)}"
            )

    def onto(self, adapter: Adapter, prepared: Any) -> tuple[Adapter, TargetColumns | None]:
        moved = adapter.for_classes(prepared.backbone, prepared.class_names, classifier=prepared.classifier)
        return moved, None


class SharedClasses(Transfer):
    """Classes of the fit, all or some, under the same names: only the scores of those that the target has count."""

    def check(self, adapter: Adapter) -> None:
        if adapter.transductive:
            raise CapabilityError(
                f"--protocol domain-generalization: adapter '{adapter.name}' learns from the test images themselves; "
                "use --protocol transductive"
            )

    def onto(self, adapter: Adapter, prepared: Any) -> tuple[Adapter, TargetColumns | None]:
        return adapter, TargetColumns.of_names(prepared.class_names, adapter.class_names_, prepared.data.name)


@dataclass(frozen=True)
class TargetColumns:
    """Which scores of a fit are those of each class of a target.

    Args:
        of: for each of T classes one column, or several where the fit has several classes of that name (ImageNet has
            two called missile), of which the highest counts.
    """

    of: tuple[tuple[int, ...], ...]

    @classmethod
    def of_names(cls, target: Sequence[str], fitted: Sequence[str], where: str) -> TargetColumns:
        """By name, whatever the case; classes of one name in order, where both sets have as many of it.

        Args:
            target, fitted: names of classes.
            where: the name of the target, for messages.

        Raises:
            DataError: a class of the target is none of the fit's.
        """
        places: dict[str, list[int]] = {}
        for column, name in enumerate(fitted):
            places.setdefault(_plain(name), []).append(column)
        repeats, met, chosen = Counter(map(_plain, target)), Counter(), []
        for name in target:
            key = _plain(name)
            if key not in places:
                raise DataError(
                    f"{where}: class '{name}' is not one of those of the fit; {did_you_mean(name, fitted)} (--protocol "
                    "cross-dataset tests on other classes)"
                )
            columns = places[key]
            chosen.append((columns[met[key]],) if repeats[key] == len(columns) else tuple(columns))
            met[key] += 1
        return cls(tuple(chosen))

    def __call__(self, logits: Tensor) -> Tensor:
        """(N, C) of the fit -> (N, T)."""
        if all(len(columns) == 1 for columns in self.of):
            return logits[:, [column for (column,) in self.of]]
        return torch.stack([logits[:, list(columns)].amax(dim=1) for columns in self.of], dim=1)


def _plain(name: str) -> str:
    return spoken(name).casefold()

"""Sets that code draws, which need no download and no licence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..contracts.items import DomainData, Item


def drawn_set(
    name: str,
    note: str,
    items: Iterable[Item],
    load: Callable[[Item], Any],
    class_names: Sequence[str] = (),
    kind: str = "labels",
) -> DomainData:
    """A sample that a domain draws itself, the same on every machine.

    Args:
        note: what its numbers tell and what not, for the user.
        load: draws an item.
        kind: of `DomainData`.
    """
    licence = "Apache-2.0 (made by vladapt)"
    return DomainData(list(items), tuple(class_names), load, kind, name=name, notes=[note], licence=licence)


def spread_over_splits(counts: Mapping[str, int]) -> list[str]:
    """Split of each sample, in their order.

    Args:
        counts: split -> how many samples.
    """
    return [split for split, count in counts.items() for _ in range(count)]

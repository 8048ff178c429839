"""Finding and changing parts of a config, wherever in it they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Node = dict[str, Any]


def nodes(value: Any) -> Iterator[Node]:
    """All dicts in a nest of dicts and lists, the outer before the inner."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from nodes(inner)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a nest in which every value that is no dict or list is what `change` makes of it."""
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(inner, change) for inner in value)
    return change(value)


def plain(value: Any) -> Any:
    """A copy with names for classes, as configs in Python's own syntax have them."""
    return mapped(value, _name)


def _name(value: Any) -> Any:
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value


def inner_dataset(dataset: Node) -> Node:
    """The first data set in its wrappers, see `inner_datasets`."""
    return inner_datasets(dataset)[0]


def inner_datasets(dataset: Node) -> list[Node]:
    """The data sets in their wrappers (RepeatDataset, ClassBalancedDataset, MultiImageMixDataset, ConcatDataset)."""
    if isinstance(dataset.get("dataset"), dict):
        return inner_datasets(dataset["dataset"])
    if isinstance(dataset.get("datasets"), (list, tuple)) and dataset["datasets"]:
        return [inner for part in dataset["datasets"] for inner in inner_datasets(part)]
    return [dataset]

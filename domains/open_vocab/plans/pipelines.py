"""The transforms of a config on images and masks as our readers find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ....core.errors import ConfigError
from .kinds import ConfigKind

LOADERS = ("val_dataloader", "test_dataloader")
IMAGE_LOADERS = ("LoadImageFromFile", "LoadImageFromNDArray")
TRUTH = ("LoadAnnotations", "LoadPanopticAnnotations", "LoadSegmentation")
Node = dict[str, Any]


def training_pipeline(plan: Node, kind: ConfigKind) -> list[Node]:
    """The transforms of training, which read images and truth our way.

    Raises:
        ConfigError: the config has none.
    """
    loader = plan.get("train_dataloader") or {}
    transforms = inner_dataset(loader["dataset"]).get("pipeline") if loader.get("dataset") else None
    transforms = transforms or plan.get("train_pipeline")
    if not transforms:
        raise ConfigError("the config has no train_dataloader.dataset.pipeline; add one, or train_pipeline")
    return [ours(transform, kind) for transform in transforms]


def testing_pipeline(plan: Node, kind: ConfigKind) -> list[Node]:
    """The transforms of testing; truth is not read, since what is found is compared with it in the image's own pixels.

    Raises:
        ConfigError: the config has none.
    """
    transforms = plan.get("test_pipeline")
    for name in LOADERS:
        loader = plan.get(name) or {}
        if loader.get("dataset"):
            transforms = inner_dataset(loader["dataset"]).get("pipeline") or transforms
    if not transforms:
        raise ConfigError("the config has no test_dataloader.dataset.pipeline; add one, or test_pipeline")
    return [ours(transform, kind) for transform in transforms if _type_name(transform) not in TRUTH]


def ours(transform: Node, kind: ConfigKind) -> Node:
    """A transform, or ours in the place of one that reads images or masks."""
    name = _type_name(transform)
    if name in IMAGE_LOADERS:
        return {"type": "vladapt.LoadItemImage", **({"to_float32": True} if transform.get("to_float32") else {})}
    if name in kind.truth_loaders:
        return {"type": kind.truth_loaders[name]}
    return dict(transform)


def _type_name(transform: Any) -> str:
    return str(transform.get("type", "")).rsplit(".", 1)[-1]


def nodes(value: Any) -> Iterator[Node]:
    """All dicts in a nest of dicts and lists, the outer before the inner."""
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from nodes(inner)


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a nest of dicts and lists, but for the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def mapped_values(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a nest in which every value that is not a dict or list is what `change` makes of it."""
    if isinstance(value, dict):
        return {key: mapped_values(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped_values(inner, change) for inner in value)
    return change(value)


def as_plain_config(value: Any) -> Any:
    """A copy with names for classes, as configs in Python's own syntax have them."""
    return mapped_values(value, _name)


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

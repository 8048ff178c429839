"""The transforms of a config on images and masks as our readers find them."""

from __future__ import annotations

from typing import Any

from ....core.contracts.errors import ConfigError
from .walking import Node, inner_dataset

LOADERS = ("val_dataloader", "test_dataloader")
IMAGE_LOADERS = ("LoadImageFromFile", "LoadImageFromNDArray")
TRUTH = ("LoadAnnotations", "LoadPanopticAnnotations", "LoadSegmentation")


def training_pipeline(plan: Node, task: str) -> list[Node]:
    """The transforms of training, which read images and truth our way.

    Raises:
        ConfigError: the config has none.
    """
    loader = plan.get("train_dataloader") or {}
    found = inner_dataset(loader["dataset"]).get("pipeline") if loader.get("dataset") else None
    found = found or plan.get("train_pipeline")
    if not found:
        raise ConfigError("the config has no train_dataloader.dataset.pipeline; add one, or train_pipeline")
    return [ours(transform, task) for transform in found]


def testing_pipeline(plan: Node, task: str) -> list[Node]:
    """The transforms of testing; truth is not read, since what is found is compared with it in the image's own pixels.

    Raises:
        ConfigError: the config has none.
    """
    found = plan.get("test_pipeline")
    for name in LOADERS:
        loader = plan.get(name) or {}
        if loader.get("dataset"):
            found = inner_dataset(loader["dataset"]).get("pipeline") or found
    if not found:
        raise ConfigError("the config has no test_dataloader.dataset.pipeline; add one, or test_pipeline")
    return [ours(transform, task) for transform in found if _kind(transform) not in TRUTH]


def ours(transform: Node, task: str) -> Node:
    """A transform, or ours in the place of one that reads images or masks."""
    kind = _kind(transform)
    if kind in IMAGE_LOADERS:
        return {"type": "vladapt.LoadItemImage", **({"to_float32": True} if transform.get("to_float32") else {})}
    if kind == "LoadAnnotations" and task == "segmentation":
        return {"type": "vladapt.LoadSegmentation"}
    return dict(transform)


def _kind(transform: Any) -> str:
    return str(transform.get("type", "")).rsplit(".", 1)[-1]

"""What stands beside an adapter as a baseline: a logistic regression on the same images, and the largest class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...contracts.adapter import Adapter
from ...contracts.features import FeatureSet, TextClassifier
from ...contracts.items import Item
from ...errors import CapabilityError
from ...registry import build_adapter

PROBE = "linear-probe"
PROBE_FILE = "linear-probe.safetensors"
"""The logistic regression of a run, with which an evaluation on other data compares."""
LARGEST_CLASS = "largest-class"
"""What always answering the largest class of the test set is called among the methods of a comparison."""
MOST_PROBED = 1000
"""Labelled images up to which a logistic regression is fitted beside the adapter."""


def fitted_probe(
    adapter: Adapter,
    support: FeatureSet,
    classifier: TextClassifier,
    val: FeatureSet | None,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Adapter | None:
    """The logistic regression on the images that an adapter was fitted on; None where it is that itself, where there
    are no labelled images or more than 1000, or where they are all of one class.

    Args:
        options: of the regression, where a protocol has others.
    """
    if adapter.name == PROBE or support.labels is None or not 0 < len(support) <= MOST_PROBED:
        return None
    probe = build_adapter(PROBE, **(options or {}))
    try:
        support, val = (None if each is None else each.one_view().without_parts() for each in (support, val))
        probe.fit(support, classifier, val=val, seed=seed)
    except CapabilityError:  # one class only
        return None
    return probe


def largest_class(items: Sequence[Item], num_classes: int) -> dict[str, Any] | None:
    """Metrics of always answering the largest class of test images; None where they have several labels or none."""
    labels = [item.class_label() for item in items]
    if any(label is None or isinstance(label, tuple) for label in labels):
        return None
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    present = int((counts > 0).sum())
    return {"accuracy": float(counts.max()) / len(labels), "balanced_accuracy": 1 / present, "seconds": 0.0}

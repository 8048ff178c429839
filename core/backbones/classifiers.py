"""The classifier that an image encoder was published with: the rows of its last layer, and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, zeros

from .checkpoints import read_checkpoint

UNNAMED = re.compile(r"label[_ ]?\d+", re.IGNORECASE)
"""What transformers calls classes that nobody named."""

Classifier = tuple[list[str], Tensor, Tensor]
"""Names of C classes, (C, D) rows, (C,) biases."""


def named_classifier(
    files: Iterable[Path], layers: Sequence[str], names: Sequence[str], width: int
) -> Classifier | None:
    """The last layer of a published model; None where the files have none, or none of these classes and this width.

    Args:
        files: with the weights of the model.
        layers: what the layer may be called.
        names: of its classes, in their order; none: it has no names.
        width: of the features that it takes.
    """
    if not names:
        return None
    for file in files:
        state = read_checkpoint(file)
        for layer in layers:
            if (rows := state.get(f"{layer}.weight")) is not None:
                rows = rows.flatten(1)  # of a convolution over one cell (C, D, 1, 1)
                if rows.shape != (len(names), width):
                    return None
                return [first_name(name) for name in names], rows, state.get(f"{layer}.bias", zeros(len(rows)))
    return None


def named_labels(id2label: Mapping[Any, str]) -> list[str]:
    """Names of the classes of a configuration of transformers, in their order; none where nobody named them."""
    names = [str(name) for _, name in sorted(id2label.items(), key=lambda pair: int(pair[0]))]
    return [] if any(UNNAMED.fullmatch(name) or not name.strip() for name in names) else names


def first_name(names: str) -> str:
    """Of several names of one class, "tench, Tinca tinca", the first."""
    return names.partition(",")[0].replace("_", " ").strip()

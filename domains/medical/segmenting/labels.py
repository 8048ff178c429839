"""From scores to labels, and back from labels to structures: exclusive ones, regions that overlap, and single maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLASSES, REGIONS, MAPS = "classes", "regions", "maps"
BACKGROUND = "background"


@dataclass(frozen=True)
class ScoreRule:
    """How scores become labels.

    Args:
        kind: "classes": K + 1 scores, the background's first, of which the highest decides. "regions": one score per
            structure, above 0 inside it, painted in order. "maps": one score per structure, of which the highest
            decides where it is above 0.
        written: the label of each structure.
        largest: structures of which only the largest component is kept.
    """

    kind: str
    written: tuple[int, ...]
    largest: tuple[int, ...] = field(default=())

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> ScoreRule:
        return cls(kept["kind"], tuple(kept["written"]), tuple(kept.get("largest", ())))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __call__(self, scores: Tensor) -> Tensor:
        """(K or K + 1, ...) -> (...) uint8 labels."""
        if self.kind == REGIONS:
            labels = torch.zeros(scores.shape[1:], dtype=torch.uint8)
            for score, label in zip(scores, self.written, strict=True):
                labels[score > 0] = label
            return labels
        table = torch.tensor([0, *self.written], dtype=torch.uint8)
        if self.kind == MAPS:
            highest, place = scores.max(dim=0)
            return table[torch.where(highest > 0, place + 1, 0)]
        return table[scores.argmax(dim=0)]

    def cleaned(self, labels: np.ndarray, values: Sequence[Sequence[int]]) -> np.ndarray:
        """Labels without all but the largest component of the structures of `largest`; as they are without any."""
        if not self.largest:
            return labels
        labels = np.array(labels)
        for place in self.largest:
            inside = np.isin(labels, list(values[place]))
            labels[inside & ~largest_component(inside)] = 0
        return labels


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest of the parts of a mask that hang together by their faces."""
    from scipy.ndimage import find_objects, label

    box = find_objects(mask.astype(np.uint8))
    if not box:
        return mask
    parts, count = label(mask[box[0]])
    kept = np.zeros_like(mask)
    if count:
        kept[box[0]] = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return kept


def learned(labels: np.ndarray, values: Sequence[Sequence[int]], overlapping: bool) -> np.ndarray:
    """Stored labels (z, y, x) as a network learns them: (1, ...) of 0 to K, or of regions (K, ...) of 0 and 1."""
    if overlapping:
        return np.stack([np.isin(labels, list(of)) for of in values]).astype(np.uint8)
    table = np.zeros(256, np.uint8)
    for place, of in enumerate(values, start=1):
        table[list(of)] = place
    return table[labels][None]

"""Boxes of the detector before, learned beside those that are annotated.

Continual Detection Transformer for Incremental Object Detection (CL-DETR), 2023, arXiv 2304.03110: what the old model
is surest of in the new images is taught as if it were annotated, unless it overlaps by 0.7 or more what is. Without it
every object of an old name that nobody annotated is taught as background (Incremental Learning of Object Detectors
without Catastrophic Forgetting, 2017, arXiv 1708.06977). Ours is that sure means a score, an option; the released code
takes the five surest boxes of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ....core.contracts import Boxes, DomainData, Item
from ..data.boxes import annotated_boxes
from ..inference.predictions import PredictedBoxes, box_overlaps
from ..inference.running import known_names, outcomes
from ..vocabulary import alike

SAME = 0.7
"""From which overlap on a found box is that of an annotated object."""


def found_boxes(
    model: nn.Module,
    data: DomainData,
    items: Sequence[Item],
    names: Sequence[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Item, PredictedBoxes]]:
    """What a model finds of some of a set's classes, labels as in the set.

    Args:
        model: asked for any names; what it finds of others is left out.
    """
    place = {alike(name): number for number, name in enumerate(data.class_names) if name in names}
    numbers = np.array([place.get(alike(name), -1) for name in known_names(model)])
    for item, sample in outcomes(model, data, items, progress):
        found = PredictedBoxes.of(sample)
        labels = numbers[found.labels]
        yield item, replace(found, labels=labels).chosen(np.flatnonzero(labels >= 0))


def with_found(item: Item, found: PredictedBoxes, score: float) -> Item:
    """An item with the boxes that were found beside its own.

    Args:
        found: labels as in the item's set.
        score: boxes below it are left out, as are those that overlap a box of the item's by `SAME`.
    """
    own = annotated_boxes(item)
    near = box_overlaps(found.boxes, np.asarray(own.boxes, dtype=float).reshape(-1, 4)) >= SAME  # (n, m)
    sure = np.flatnonzero((found.scores >= score) & ~near.any(axis=1))
    return item.with_(target=_joined(own, found.chosen(sure)))


def _joined(own: Boxes, found: PredictedBoxes) -> Boxes:
    more = len(found.labels)
    outlines = (*(own.segments or (None,) * len(own.labels)), *(found.outlines or (None,) * more))
    return replace(
        own,
        boxes=(*own.boxes, *(tuple(map(float, box)) for box in found.boxes)),
        labels=(*own.labels, *map(int, found.labels)),
        segments=outlines if own.segments is not None or (found.outlines and not own.labels) else None,
        ignored=None if own.ignored is None else (*own.ignored, *(False for _ in range(more))),
    )

"""Windows of one picture joined: boxes that several windows found are kept once, class scores are blended.

Boxes of different windows are of one thing where they share half of the smaller, as in "Slicing Aided Hyper Inference
and Fine-Tuning for Small Object Detection" (2022, arXiv 2202.06934): at a window's edge a thing is cut, and its box
small. One that ends at such an edge yields to one that does not, then the less sure to the surer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch

from ....core.contracts import DomainData, Item
from ..data.outlines import coco_masks, decode
from .predictions import PredictedBoxes

SHARED = 0.5
AT_EDGE = 2.0
"""Pixels from the edge of a window."""
LEAST_WEIGHT = 1e-3

Window = tuple[int, int, int, int]
"""(left, top, width, height) in pixels of the picture."""


def pictures_of(pairs: Iterator[tuple[Item, Any]]) -> Iterator[tuple[str, tuple[int, int] | None, Iterator]]:
    """Runs of windows of one picture, and pictures that are no windows, each a run of one.

    Yields:
        the picture's id; its (height, width), None where it is no window; its (item, sample) pairs, to be used before
        the next run.
    """
    for (name, size), run in groupby(pairs, key=lambda pair: (picture_id(pair[0]), _size_of_whole(pair[0]))):
        yield name, size, run


def picture_id(item: Item) -> str:
    """The id of a window's picture, or an item's own."""
    return item.id.rpartition("#")[0] if Item.WHOLE in item.decode else item.id


def whole_pictures(data: DomainData) -> dict[str, Item]:
    """Id of each picture -> the item that shows it whole."""
    pictures: dict[str, Item] = {}
    for item in data.items:
        parts = ("window", "box", Item.WHOLE) if Item.WHOLE in item.decode else ()
        decode = {key: value for key, value in item.decode.items() if key not in parts}
        pictures.setdefault(picture_id(item), item.with_(id=picture_id(item), decode=decode))
    return pictures


def picture_window(item: Item) -> Window:
    """Where a window lies in its picture."""
    if "window" in item.decode:
        return tuple(item.decode["window"])
    left, top, right, bottom = item.decode["box"]
    return left, top, right - left, bottom - top


def join_boxes(parts: list[tuple[Window, PredictedBoxes]], size: tuple[int, int], apart: np.ndarray) -> PredictedBoxes:
    """The boxes of all windows of a picture, each thing once.

    Args:
        parts: each window with its boxes, in its own pixels.
        size: (height, width) of the picture.
        apart: (C, C) bool, names that share no thing though they differ.
    """
    windows = np.array([window for window, _ in parts], np.float64).reshape(-1, 4)
    moved = [found.boxes + np.tile(window[:2], 2) for window, found in zip(windows, (found for _, found in parts))]
    labels = [found.labels for _, found in parts]
    starts = np.cumsum([0, *(len(boxes) for boxes in moved)])
    rivals: list[list[int]] = [[] for _ in range(starts[-1])]
    same = apart | np.eye(len(apart), dtype=bool)
    for one, window in enumerate(windows):
        for other in one + 1 + np.flatnonzero(_meets(window, windows[one + 1 :])):
            of_one = (_of_smaller(moved[one], moved[other]) >= SHARED) & same[labels[one]][:, labels[other]]
            for i, k in np.argwhere(of_one):
                rivals[starts[one] + i].append(starts[other] + k)
                rivals[starts[other] + k].append(starts[one] + i)
    boxes, scores = np.concatenate(moved), np.concatenate([found.scores for _, found in parts])
    edges = np.concatenate([_at_edge(box, window, size) for box, window in zip(moved, windows)])
    kept = np.zeros(len(scores), bool)
    for place in np.lexsort((-scores, edges)):
        kept[place] = not kept[rivals[place]].any()
    order = np.flatnonzero(kept)[np.argsort(-scores[kept], kind="stable")]
    outlines = None
    if all(found.outlines is not None for _, found in parts):
        every = [moved_outline(outline, window, size) for window, found in parts for outline in found.outlines or ()]
        outlines = [every[place] for place in order]
    return PredictedBoxes(boxes[order], scores[order], np.concatenate(labels)[order], outlines)


def moved_outline(outline: dict[str, Any], window: Window, size: tuple[int, int]) -> dict[str, Any]:
    """The COCO encoding of a window as one of its picture; no mask of the picture is made."""
    left, top, _, _ = window
    mask = decode(outline).astype(np.int8)  # (h, w)
    edges = np.diff(np.pad(mask, ((1, 1), (0, 0))), axis=0)  # columns begin and end on their own
    columns, begins = np.nonzero(edges.T == 1)
    _, ends = np.nonzero(edges.T == -1)
    begins, ends = ((left + columns) * size[0] + top + rows for rows in (begins, ends))
    runs = np.diff(np.concatenate([[0], np.column_stack([begins, ends]).ravel(), [size[0] * size[1]]]))
    made = coco_masks().frPyObjects({"size": list(size), "counts": [int(run) for run in runs]}, *size)
    return {"size": [int(side) for side in size], "counts": made["counts"].decode("ascii")}


class JoinedMap:
    """A class for each pixel of a picture, from windows that come row by row: scores are blended by weights that fall
    to the edges of windows as a squared sine. No more than a row of windows is held.

    Args:
        size: (height, width) of the picture.
        choose: (C, h, w) blended scores -> (1, h, w) classes.

    Attributes:
        classes: (height, width) int32; -1 where no window lies, or the picture has no value.
    """

    def __init__(self, size: tuple[int, int], choose: Callable[[torch.Tensor], torch.Tensor]):
        self.classes, self.choose = np.full(size, -1, np.int32), choose
        self.top = 0
        self.total = torch.zeros(0, 0, size[1])  # (C, rows, width), of which C is known from the first window on
        self.weight = torch.zeros(0, size[1])

    def add(self, window: Window, scores: torch.Tensor, valid: np.ndarray | None = None) -> None:
        """One window, not above those before it.

        Args:
            scores: (C, height, width).
            valid: (height, width) bool, where the picture has values; None: everywhere.
        """
        left, top, width, height = window
        scores = scores.float().cpu()
        self._finish(top)
        self._reach(top + height, len(scores))
        weight = falling(height)[:, None] * falling(width)
        weight = weight if valid is None else weight * torch.from_numpy(valid)
        rows, columns = slice(top - self.top, top - self.top + height), slice(left, left + width)
        self.total[:, rows, columns] += weight * scores
        self.weight[rows, columns] += weight

    def finished(self) -> np.ndarray:
        """`classes`, when all windows were added."""
        self._finish(self.classes.shape[0])
        return self.classes

    def _finish(self, bottom: int) -> None:
        rows = min(bottom - self.top, len(self.weight))
        if rows > 0:
            weight = self.weight[:rows]
            blended = self.total[:, :rows] / weight.clamp(min=torch.finfo(torch.float32).tiny)
            chosen = self.choose(blended)[0].masked_fill(weight == 0, -1)
            self.classes[self.top : self.top + rows] = chosen.numpy()
            self.total, self.weight = self.total[:, rows:], self.weight[rows:]
        self.top = max(self.top, bottom)

    def _reach(self, bottom: int, count: int) -> None:
        more = bottom - self.top - len(self.weight)
        if not len(self.total):
            self.total = torch.zeros(count, 0, self.weight.shape[1])
        if more > 0:
            self.total = torch.cat([self.total, self.total.new_zeros(count, more, self.total.shape[2])], dim=1)
            self.weight = torch.cat([self.weight, self.weight.new_zeros(more, self.weight.shape[1])])


def falling(length: int) -> torch.Tensor:
    """(length,) weights: 1 in the middle, near 0 at both ends."""
    places = (torch.arange(length) + 0.5) / length
    return torch.sin(torch.pi * places).square().clamp(min=LEAST_WEIGHT)


def _size_of_whole(item: Item) -> tuple[int, int] | None:
    return tuple(item.decode[Item.WHOLE]) if Item.WHOLE in item.decode else None


def _meets(window: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) bool: which windows share pixels with one."""
    low = np.maximum(window[:2], others[:, :2])
    high = np.minimum(window[:2] + window[2:], others[:, :2] + others[:, 2:])
    return (high > low).all(axis=1)


def _of_smaller(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) -> (n, m): what they share of the smaller one."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (boxes, others)]
    return (high - low).clip(0).prod(axis=2) / np.minimum(areas[0][:, None], areas[1][None]).clip(1e-9)


def _at_edge(boxes: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n,) bool: which boxes end where their window does and the picture does not."""
    left, top, width, height = window
    right, bottom = left + width, top + height
    inner = np.array([left > 0, top > 0, right < size[1], bottom < size[0]])
    return ((np.abs(boxes - (left, top, right, bottom)) <= AT_EDGE) & inner).any(axis=1)

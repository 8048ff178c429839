"""Windows slid over both dates: the probability of change of each pixel, in memory of one row of windows; a process
that is killed goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ....core.contracts import DomainData, Item
from ..maps.areas import Ground
from ..maps.blending import RowBlender, window_weights
from ..maps.strips import Strips, first_reaching
from ..pictures import is_raster
from ..places import files_of_item
from ..rasters import header_of
from ..windows import Box, batched, starts_of_windows
from .pairs import check_dates, dates_of, pair_size, pair_window, unit_pair
from .scoring import AT_ONCE, MODEL, check_pair_channels

OVERLAP = 0.25
"""Share of a window that the next one covers too."""
NO_VALUE = 255
"""In a map of percentages, where a date has no value."""
Progress = Callable[[int, int], None]


def map_changes(
    model: nn.Module, data: DomainData, folders: Sequence[Path], progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """A row of each pair with how much changed, and the files of the maps, (H, W) bytes of per cent, by id.

    Args:
        folders: one for each pair (`work_folders`), with what was finished of its map.

    Raises:
        DataError: a pair cannot be read, or has other channels than those of the training.
    """
    facts, rows, files = model.cfg.vladapt, [], {}
    threshold = float(facts["thresholds"][MODEL]["value"])
    for place, (item, folder) in enumerate(zip(data.items, folders, strict=True)):
        check_dates(*dates_of(item))
        file, (height, width), side = folder / "map.raw", pair_size(item), int(facts["side"])
        strips = Strips(folder, [top for top, _, _ in _rows(height, width, side)], height, width, 1, np.uint8)
        first = strips.lacking()
        for row, (_, percent) in enumerate(change_probabilities(model, item, side, threshold, first), first):
            strips.write(row, percent[None])
        chances = np.memmap(file, np.uint8, "w+", shape=(height, width))
        areas = _Areas(item)
        for top, (percent,) in strips:
            chances[top : top + len(percent)] = percent
            areas.add(top, percent, 100 * threshold)
        chances.flush()
        rows.append({"id": item.id, **areas.row(), "threshold": round(threshold, 4)})
        files[item.id] = file
        progress(place + 1, len(data.items))
    return rows, files


def change_probabilities(
    model: Any, item: Item, side: int, threshold: float = 0.5, first: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """First row, and (rows, width) uint8 per cent of change from north to south, 255 where a date has no value.

    Rounding takes no pixel to the other side of the threshold.

    Args:
        first: the row of windows from which on they are wanted.
    """
    height, width = pair_size(item)
    weights = window_weights((min(side, height), min(side, width)), stride_of(side))
    blender, device = RowBlender(1, width), next(model.parameters()).device
    valid = np.zeros((0, width), bool)
    windows = list(_rows(height, width, side))
    start = first_reaching([top for top, _, _ in windows], first, min(side, height))
    blender.top = windows[start][0] if start < len(windows) else height
    for row, (top, below, boxes) in enumerate(windows[start:], start):
        high = min(side, height - top)
        valid = np.pad(valid, ((0, top + high - blender.top - len(valid)), (0, 0)))
        for some in batched(boxes, AT_ONCE):
            read = [unit_pair(pair_window(item, box)) for box in some]
            inputs = torch.from_numpy(np.stack([pixels for pixels, _ in read])).to(device)
            check_pair_channels(model, item, inputs.shape[2])
            scores = model.probabilities(inputs).float().cpu().numpy()
            for (left, _, wide, _), chances, (_, there) in zip(some, scores, read):
                blender.add(top, left, chances[None], weights)
                valid[top - blender.top : top - blender.top + high, left : left + wide] |= there
        begin = blender.top
        (chances,), seen = blender.take(below)
        rows = below - begin
        percent, least = np.rint(100 * chances), math.ceil(100 * threshold)
        percent = np.where(chances >= threshold, np.maximum(percent, least), np.minimum(percent, least - 1))
        if row >= first:
            yield begin, np.where(seen & valid[:rows], percent, NO_VALUE).astype(np.uint8)
        valid = valid[rows:]


def stride_of(side: int) -> int:
    """Pixels from one window to the next."""
    return max(1, round(side * (1 - OVERLAP)))


def _rows(height: int, width: int, side: int) -> Iterator[tuple[int, int, list[Box]]]:
    """First row of a row of windows, the first row that the next ones reach, and its windows."""
    high, wide, stride = min(side, height), min(side, width), stride_of(side)
    tops = starts_of_windows(height, high, stride)
    for top, below in zip(tops, [*tops[1:], height]):
        yield top, below, [(left, top, wide, high) for left in starts_of_windows(width, wide, stride)]


class _Areas:
    """How much of a pair changed: in square metres where it lies somewhere, and as a share of what has a value."""

    def __init__(self, item: Item):
        before, _ = dates_of(item)
        header = None
        if is_raster(before.source):
            header = header_of(files_of_item(before), before.decode.get("sensor"))
        self._ground = None if header is None else Ground.of(header)
        self._changed = self._valued = 0
        self._area = 0.0

    def add(self, top: int, percent: np.ndarray, least: float) -> None:
        valued = percent != NO_VALUE
        changed = valued & (percent >= least)
        self._changed, self._valued = self._changed + int(changed.sum()), self._valued + int(valued.sum())
        if self._ground is not None:
            rows = np.arange(top, top + len(percent))
            self._area += float((self._ground.of_pixels(rows) * changed.sum(axis=1)).sum())

    def row(self) -> dict[str, Any]:
        share = self._changed / max(1, self._valued)
        metres = self._ground is not None and self._ground.in_metres
        words = f"{share:.1%} changed" + (f", {self._area:,.0f} m2" if metres else f", {self._changed:,} pixels")
        area = {"area_m2": round(self._area, 2)} if metres else {}
        return {"summary": words, "changed": round(share, 6), "pixels": self._changed, **area}

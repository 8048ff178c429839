"""Scores of all windows of a raster, some rows of windows at a time; what is done stays done when the process is
killed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ....core.contracts.domain import MAX_PIXELS, Decoded, DomainData, Item
from ....core.contracts.own_files import Scorer
from ....core.errors import DataError
from ....core.runtime.files import write_whole
from ..pictures import IMAGE, picture_of, read_channels
from ..places import files_of_item
from ..rasters import Header, OpenRaster, header_of, open_raster
from .blending import grid

PIXELS_AT_ONCE = 2_000_000
SCORED = "rows-"
"""How files of scored windows begin."""


class UnmappableError(DataError):
    """A raster that no map can be made of: it ends early, is damaged, or has no value anywhere."""


@dataclass(frozen=True)
class Windows:
    """The windows of a raster.

    Args:
        item: the raster.
        size: side of a window; stride: from one to the next.
    """

    item: Item
    size: int
    stride: int

    @cached_property
    def header(self) -> Header:
        return header_of(files_of_item(self.item), self.item.decode.get("sensor"))

    @cached_property
    def places(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Where rows and columns of windows begin, and (height, width) of a window."""
        return grid(self.header.height, self.header.width, self.size, self.stride)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the raster."""
        return self.header.height, self.header.width

    @cached_property
    def chunks(self) -> list[range]:
        """Rows of windows that are scored at once: as many as some million pixels have, one at least."""
        tops, _, _ = self.places
        rows = max(1, PIXELS_AT_ONCE // (self.header.width * self.stride))
        return [range(first, min(first + rows, len(tops))) for first in range(0, len(tops), rows)]

    def rows_of(self, chunk: range) -> tuple[int, int]:
        """The first of the raster's rows that the next windows do not begin with, and the one after the last."""
        tops, _, _ = self.places
        return tops[chunk.start], tops[chunk.stop] if chunk.stop < len(tops) else self.header.height


@dataclass
class WindowScores:
    """Scores of all windows of a raster, and where the raster has values.

    Args:
        windows: of the raster.
        scores: (rows, columns, C) float32; NaN for a window without a value, or that could not be scored.
        folder: that holds where values are.
        skipped: (id, reason) of windows that could not be scored.
    """

    windows: Windows
    scores: np.ndarray
    folder: Path
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def valid(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row and (rows, width) bool, from north to south: where the raster has values."""
        for chunk in self.windows.chunks:
            top, bottom = self.windows.rows_of(chunk)
            packed = _read(_file(self.folder, chunk))["valid"]
            yield top, _unpacked(packed, (bottom - top, self.windows.header.width))


def score_windows(windows: Windows, scorer: Scorer, folder: Path, progress: Callable[[int, int], None]) -> WindowScores:
    """Score what was not scored before.

    Args:
        windows: of a raster.
        scorer: of pictures.
        folder: is there, and holds what an earlier process did of the same.
        progress: called as progress(done, total) windows.

    Raises:
        UnmappableError: the raster ends early or has no value. DataError: nothing can be written.
    """
    tops, lefts, _ = windows.places
    whole = WindowScores(windows, np.zeros((len(tops), len(lefts), len(scorer.class_names)), np.float32), folder)
    todo = [chunk for chunk in windows.chunks if not _taken(whole, chunk)]
    total = len(tops) * len(lefts)
    done = total - len(lefts) * sum(map(len, todo))
    progress(done, total)
    files = files_of_item(windows.item)
    with open_raster(files, windows.item.decode.get("sensor")) as raster, ThreadPoolExecutor(1) as ahead:
        reading = [ahead.submit(_Strip, windows, raster, chunk) for chunk in todo[:1]]
        for number, chunk in enumerate(todo):
            try:
                strip = reading.pop().result()
            except DataError as error:
                raise UnmappableError(str(error)) from error
            reading += [ahead.submit(_Strip, windows, raster, chunk) for chunk in todo[number + 1 : number + 2]]
            whole.scores[chunk.start : chunk.stop], skipped = strip.scored(scorer)
            whole.skipped += skipped
            content = {"scores": whole.scores[chunk.start : chunk.stop], "valid": strip.packed()}
            write_whole(_file(folder, chunk), save(content))
            done += len(chunk) * len(lefts)
            progress(done, total)
    if np.isnan(whole.scores).all():
        why = whole.skipped[0][1] if whole.skipped else "no pixel of it has a value"
        raise UnmappableError(f"{windows.item.source}: nothing to map, {why}")
    return whole


class _Strip:
    """The pixels of some rows of windows."""

    def __init__(self, windows: Windows, raster: OpenRaster, chunk: range):
        self.windows, self.chunk = windows, chunk
        tops, _, (high, _) = windows.places
        self.top, bottom = tops[chunk.start], tops[chunk.stop - 1] + high
        decode, width = windows.item.decode, windows.header.width
        raster.check_size((bottom - self.top, width), None, int(decode.get("max_pixels", MAX_PIXELS)))
        window = (0, self.top, width, bottom - self.top)
        self.values, self.there, *self.how = read_channels(raster, windows.item.source, decode, window)

    def scored(self, scorer: Scorer) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """(rows, columns, C) float32 of the windows, and what could not be scored."""
        tops, lefts, (high, wide) = self.windows.places
        item, boxes = self.windows.item, {}
        for row, window_row in enumerate(self.chunk):
            for column, left in enumerate(lefts):
                box = (left, tops[window_row], wide, high)
                if self._part(self.there, box).any():
                    boxes[f"{item.id}#{box[1]}_{left}"] = (row, column, box)
        # a digest in place of the file's hash: nothing of these is stored
        items = [Item(id_, item.source, {"digest": id_, "window": list(box)}) for id_, (*_, box) in boxes.items()]
        scores = np.full((len(self.chunk), len(lefts), len(scorer.class_names)), np.nan, np.float32)
        if not items:
            return scores, []
        ids, probabilities, skipped = scorer.score(DomainData(items, scorer.class_names, self._picture))
        for id_, of_window in zip(ids, probabilities.numpy()):
            scores[boxes[id_][:2]] = of_window
        return scores, skipped

    def packed(self) -> np.ndarray:
        """Where the rows that are this strip's own have values, as bytes; none where they have everywhere."""
        top, bottom = self.windows.rows_of(self.chunk)
        own = self.there[top - self.top : bottom - self.top]
        text = b"" if own.all() else zlib.compress(np.packbits(own).tobytes(), 1)
        return np.frombuffer(text, np.uint8)

    def _part(self, of: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
        left, top, wide, high = box
        return of[..., top - self.top : top - self.top + high, left : left + wide]

    def _picture(self, item: Item) -> Decoded:
        values, there = (self._part(each, item.decode["window"]) for each in (self.values, self.there))
        stretch = self.windows.item.decode.get("stretch", IMAGE)
        return picture_of(values, there, *self.how, stretch, item.source)


def _taken(whole: WindowScores, chunk: range) -> bool:
    """Take over what an earlier process did of a chunk, if it did."""
    try:
        scores = _read(_file(whole.folder, chunk))["scores"]
    except (DataError, KeyError):
        return False
    if scores.shape != whole.scores[chunk.start : chunk.stop].shape:
        return False
    whole.scores[chunk.start : chunk.stop] = scores
    return True


def _file(folder: Path, chunk: range) -> Path:
    return folder / f"{SCORED}{chunk.start:07d}.safetensors"


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read ({error}); run the same command again") from error


def _unpacked(packed: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if not len(packed):
        return np.ones(shape, bool)
    bits = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8)
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)

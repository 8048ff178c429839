"""Scores of all windows of a raster, some windows at a time; what is done stays done when the process is killed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ....core.contracts import Decoded, Domain, DomainData, Item, Scorer
from ....core.errors import DataError
from ....core.runtime import write_whole
from ..pictures import BY_IMAGE, picture_of, read_channels
from ..places import files_of_item
from ..rasters import Header, OpenRaster, header_of, open_raster
from .blending import window_grid

PIXELS_AT_ONCE, WINDOWS_ASIDE = 4_000_000, 16
"""Of a piece: its pixels at most, and windows along a side, so that a process that is killed loses little."""
SCORED = "windows-"
"""How files of scored windows begin."""
MASKS_HELD = 8


class UnmappableError(DataError):
    """A raster that no map can be made of: it ends early, is damaged, or has no value anywhere."""


@dataclass(frozen=True)
class RasterWindows:
    """The windows of a raster.

    Args:
        item: the raster.
        size: side of a window; stride: from one to the next.
        domain: as of `MapOptions`.
    """

    item: Item
    size: int
    stride: int
    domain: Domain | None = None

    @cached_property
    def header(self) -> Header:
        return header_of(files_of_item(self.item), self.item.decode.get("sensor"))

    @cached_property
    def places(self) -> tuple[list[int], list[int], tuple[int, int]]:
        """Where rows and columns of windows begin, and (height, width) of a window."""
        return window_grid(self.header.height, self.header.width, self.size, self.stride)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the raster."""
        return self.header.height, self.header.width

    @cached_property
    def pieces(self) -> list[_Piece]:
        """Windows that are read and scored at once, row by row of pieces: memory does not grow with the raster."""
        tops, lefts, (high, wide) = self.places
        side = max(1, min(int(PIXELS_AT_ONCE**0.5) // self.stride, WINDOWS_ASIDE))
        columns = _cut(len(lefts), side, lefts, self.header.width)
        return [
            _Piece(rows, in_rows, of_columns, in_columns, (in_rows[0], tops[rows[-1]] + high, in_columns[0], right))
            for rows, in_rows in _cut(len(tops), side, tops, self.header.height)
            for of_columns, in_columns in columns
            for right in [lefts[of_columns[-1]] + wide]
        ]


@dataclass(frozen=True)
class _Piece:
    """Some windows of a raster.

    Args:
        rows, columns: which of the grid of windows.
        own_rows, own_columns: (first, one after the last) of the raster's pixels that it stands for, each in one piece.
        box: (top, bottom, left, right) pixels that its windows cover.
    """

    rows: range
    own_rows: tuple[int, int]
    columns: range
    own_columns: tuple[int, int]
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{SCORED}{self.rows.start}-{self.columns.start}.safetensors"

    @property
    def where(self) -> tuple[slice, slice]:
        """Its part of the grid of windows."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)


def _cut(count: int, side: int, begins: list[int], end: int) -> list[tuple[range, tuple[int, int]]]:
    """Ranges of so many windows along one side of a raster, and the pixels that each stands for."""
    parts = [range(first, min(first + side, count)) for first in range(0, count, side)]
    return [(part, (begins[part.start], begins[part.stop] if part.stop < count else end)) for part in parts]


class WindowScores:
    """Scores of all windows of a raster, and where the raster has values.

    Attributes:
        windows: of the raster.
        scores: (rows, columns, C) float32; NaN for a window without a value, or that could not be scored.
        skipped: (id, reason) of windows that could not be scored.
    """

    def __init__(self, windows: RasterWindows, classes: int, folder: Path):
        tops, lefts, _ = windows.places
        self.windows, self.folder = windows, folder
        self.scores = np.zeros((len(tops), len(lefts), classes), np.float32)
        self.skipped: list[tuple[str, str]] = []
        self._mask = lru_cache(MASKS_HELD)(self._unpacked)

    def valid(self, rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
        """(rows, columns) bool of a part of the raster, first and one after the last: where it has values."""
        whole = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), bool)
        for piece in self.windows.pieces:
            (top, bottom), (left, right) = _common(piece.own_rows, rows), _common(piece.own_columns, columns)
            if top < bottom and left < right:
                of_piece = self._mask(piece)[
                    _from(piece.own_rows[0], top, bottom), _from(piece.own_columns[0], left, right)
                ]
                whole[_from(rows[0], top, bottom), _from(columns[0], left, right)] = of_piece
        return whole

    def take(self, piece: _Piece) -> bool:
        """Take over what an earlier process did of a piece, if it did."""
        try:
            scores = _read(self.folder / piece.name)["scores"]
        except (DataError, KeyError):
            return False
        if scores.shape != self.scores[piece.where].shape:
            return False
        self.scores[piece.where] = scores
        return True

    def _unpacked(self, piece: _Piece) -> np.ndarray:
        shape = piece.own_rows[1] - piece.own_rows[0], piece.own_columns[1] - piece.own_columns[0]
        packed = _read(self.folder / piece.name)["valid"]
        if not len(packed):
            return np.ones(shape, bool)
        bits = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8)
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def _common(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), min(one[1], other[1])


def _from(begin: int, first: int, end: int) -> slice:
    return slice(first - begin, end - begin)


def score_windows(
    windows: RasterWindows, scorer: Scorer, folder: Path, progress: Callable[[int, int], None]
) -> WindowScores:
    """Score what was not scored before.

    Args:
        windows: of a raster.
        scorer: of pictures.
        folder: is there, and holds what an earlier process did of the same.
        progress: called as progress(done, total) windows.

    Raises:
        UnmappableError: the raster ends early or has no value. DataError: nothing can be written.
    """
    whole = WindowScores(windows, len(scorer.class_names), folder)
    todo = [piece for piece in windows.pieces if not whole.take(piece)]
    total = whole.scores.shape[0] * whole.scores.shape[1]
    done = total - sum(len(piece.rows) * len(piece.columns) for piece in todo)
    progress(done, total)
    files = files_of_item(windows.item)
    with open_raster(files, windows.item.decode.get("sensor")) as raster, ThreadPoolExecutor(1) as ahead:
        reading = [ahead.submit(_Pixels, windows, raster, piece) for piece in todo[:1]]
        for number, piece in enumerate(todo):
            try:
                pixels = reading.pop().result()
            except DataError as error:
                raise UnmappableError(str(error)) from error
            reading += [ahead.submit(_Pixels, windows, raster, next_) for next_ in todo[number + 1 : number + 2]]
            whole.scores[piece.where], skipped = pixels.scored(scorer)
            whole.skipped += skipped
            write_whole(
                folder / piece.name, save({"scores": whole.scores[piece.where].copy(), "valid": pixels.packed()})
            )
            done += len(piece.rows) * len(piece.columns)
            progress(done, total)
    if np.isnan(whole.scores).all():
        why = whole.skipped[0][1] if whole.skipped else "no pixel of it has a value"
        raise UnmappableError(f"{windows.item.source}: nothing to map, {why}")
    return whole


class _Pixels:
    """The pixels of a piece."""

    def __init__(self, windows: RasterWindows, raster: OpenRaster, piece: _Piece):
        self.windows, self.piece = windows, piece
        top, bottom, left, right = piece.box
        decode = windows.item.decode
        raster.check_size((bottom - top, right - left), None, int(decode.get("max_pixels", Item.MAX_PIXELS)))
        window = (left, top, right - left, bottom - top)
        self.values, self.there, self.pictures, self.eight_bits = read_channels(
            raster, windows.item.source, decode, window
        )

    def scored(self, scorer: Scorer) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """(rows, columns, C) float32 of the windows, and what could not be scored."""
        tops, lefts, (high, wide) = self.windows.places
        item, boxes = self.windows.item, {}
        for row, top in enumerate(tops[each] for each in self.piece.rows):
            for column, left in enumerate(lefts[each] for each in self.piece.columns):
                box = (left, top, wide, high)
                if self._part(self.there, box).any():
                    boxes[f"{item.id}#{top}_{left}"] = (row, column, box)
        # a digest in place of the file's hash: nothing of these is stored
        items = [Item(id_, item.source, {"digest": id_, "window": list(box)}) for id_, (*_, box) in boxes.items()]
        shape = len(self.piece.rows), len(self.piece.columns), len(scorer.class_names)
        scores = np.full(shape, np.nan, np.float32)
        if not items:
            return scores, []
        data = DomainData(items, scorer.class_names, self._picture, domain=self.windows.domain)
        ids, probabilities, skipped = scorer.score(data)
        for id_, of_window in zip(ids, probabilities.numpy()):
            scores[boxes[id_][:2]] = of_window
        return scores, skipped

    def packed(self) -> np.ndarray:
        """Where the pixels that the piece stands for have values, as bytes; none where they have everywhere."""
        top, _, left, _ = self.piece.box
        own = self.there[_from(top, *self.piece.own_rows), _from(left, *self.piece.own_columns)]
        return np.frombuffer(b"" if own.all() else zlib.compress(np.packbits(own).tobytes(), 1), np.uint8)

    def _part(self, of: np.ndarray, box: Sequence[int]) -> np.ndarray:
        left, top, wide, high = box
        return of[..., _from(self.piece.box[0], top, top + high), _from(self.piece.box[2], left, left + wide)]

    def _picture(self, item: Item) -> Decoded:
        values, there = (self._part(each, item.decode["window"]) for each in (self.values, self.there))
        stretch = self.windows.item.decode.get("stretch", BY_IMAGE)
        return picture_of(values, there, self.pictures, self.eight_bits, stretch, item.source)


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: cannot be read ({error}); run the same command again") from error

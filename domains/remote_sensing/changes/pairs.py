"""Two dates of one place as one item: checked, cut into tiles, and decoded window by window."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....core.contracts import Item
from ....core.data import FileHashes, Format
from ....core.errors import DataError
from ..gdal import same_crs
from ..pictures import in_unit, is_raster, masked_pixels
from ..places import files_of_item
from ..rasters import Header, header_of
from ..windows import Box

AFTER, AFTER_DECODE = "after", "after_decode"
"""Keys of `Item.decode`: the file of the second date, relative to the folder of the first, and how it is decoded."""
MOST_SHIFT = 0.01
"""Pixels by which the grids of two dates may differ, as rounding makes them."""


@dataclass(frozen=True)
class DatePair:
    """Two dates of one place, and where it is told what changed.

    Args:
        name: unique within the set.
        before, after: whole pictures, without a target.
        mask: a file on their grid, or a layer of polygons; None of a pair that is only looked at.
        values: of the mask, for "no change" and "change"; () where the values of all masks tell.
        group: the place, where the data say.
    """

    name: str
    before: Item
    after: Item
    mask: Path | None = None
    values: tuple[int, ...] = ()
    split: str = ""
    group: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return pair_size(self.before)

    @property
    def mask_file(self) -> Path:
        """Of a labelled pair."""
        assert self.mask is not None
        return self.mask

    @property
    def item(self) -> Item:
        """The pair as one item, without a target."""
        after = os.path.relpath(self.after.source, self.before.source.parent)
        files = [*files_of_item(self.before), *files_of_item(self.after)]
        hashes = FileHashes()
        digest = hashlib.sha256("".join(map(hashes.sha256, files)).encode()).hexdigest()
        decode = {**self.before.decode, AFTER: Path(after).as_posix(), AFTER_DECODE: self.after.decode}
        return Item(self.name, self.before.source, {**decode, "digest": digest}, group=self.group, split=self.split)


def date_of(path: Path, formats: Sequence[Format]) -> Item:
    """One date as an item.

    Raises:
        DataError: it is no picture that can be read, or several.
    """
    fmt = Format.of(path, formats)
    if fmt is None:
        suffixes = " ".join(suffix for each in formats for suffix in each.suffixes)
        raise DataError(f"{path}: not an image or raster; known kinds: {suffixes}")
    parts = fmt.expand(path)
    if len(parts) != 1:
        raise DataError(f"{path}: is not one picture of one date; give the file that stands for it")
    return Item(str(path), path, fmt.limited(parts[0]))


def pair_size(item: Item) -> tuple[int, int]:
    """(height, width) of a whole picture, by its header."""
    from ....core.data import IMAGE

    if is_raster(item.source):
        header = header_of(files_of_item(item), item.decode.get("sensor"))
        return header.height, header.width
    assert IMAGE.size is not None
    width, height = IMAGE.size(item.source, {})
    return height, width


def check_dates(before: Item, after: Item) -> None:
    """Raise the DataError of two dates that do not lie on one grid.

    What has no CRS on either side, as images have none, is compared by its size.
    """
    one, other = before.source, after.source
    check_place(one, _header(before), other, _header(after))
    sizes = pair_size(before), pair_size(after)
    if sizes[0] != sizes[1]:
        (h0, w0), (h1, w1) = sizes
        raise DataError(
            f"{one} and {other}: differ in size ({w0} x {h0} and {w1} x {h1} pixels); bring both dates to one grid "
            "(gdalwarp -te -ts)"
        )


def check_place(one: Path, of_one: Header | None, other: Path, of_other: Header | None) -> None:
    """Raise the DataError of two rasters that say that their pixels are of different places."""
    if of_one is None or of_other is None:
        return
    if bool(of_one.crs) != bool(of_other.crs):
        lacking, beside = (other, one) if of_one.crs else (one, other)
        raise DataError(f"{lacking}: has no CRS, but {beside} beside it has one; add its CRS (gdal_edit.py -a_srs)")
    if of_one.crs and not same_crs(of_one.crs, of_other.crs):
        raise DataError(f"{one} and {other}: have different CRSs; reproject one to the grid of the other (gdalwarp)")
    if of_one.transform is None or of_other.transform is None:
        return
    scale = np.hypot(*of_one.pixel) / np.sqrt(2)
    pixels = [header.pixel for header in (of_one, of_other)]
    (left, top), (right, bottom) = (header.corners[0] for header in (of_one, of_other))
    shift = np.hypot(left - right, top - bottom) / scale
    if not np.allclose(*pixels, rtol=1e-4):
        sides = " and ".join(f"{width:g}" for _, width in pixels)
        raise DataError(f"{one} and {other}: have pixels of {sides} units; resample one to the grid of the other")
    if shift > max(of_one.height, of_one.width):
        raise DataError(
            f"{one} and {other}: are of different places ({left:g}, {top:g} and {right:g}, {bottom:g}); give two "
            "dates of one place"
        )
    if shift > MOST_SHIFT:
        raise DataError(
            f"{one} and {other}: lie on grids that are {shift:.3g} pixels apart; resample one to the grid of the "
            "other (gdalwarp -te -tr)"
        )


def tile_boxes(box: Box, size: int) -> list[Box]:
    """Tiles that cover an area once, row by row; those at its right and lower edge may be smaller."""
    left, top, width, height = box
    return [
        (left + x, top + y, min(size, width - x), min(size, height - y))
        for y in range(0, height, size)
        for x in range(0, width, size)
    ]


def pair_window(item: Item, box: Box) -> Item:
    """A window of a pair; a pair that fits it stays whole."""
    left, top, _, _ = box
    decode, after = item.decode, Path(item.decode[AFTER])
    of_after = {**decode[AFTER_DECODE], **_window(after, box)}
    decode = {**decode, **_window(item.source, box), AFTER_DECODE: of_after}
    return item.with_(id=f"{item.id}#{top}_{left}", decode=decode, apart=True)


def window_box(item: Item) -> Box | None:
    """(left, top, width, height) of a window; None of a whole pair."""
    if "window" in item.decode:
        left, top, width, height = item.decode["window"]
        return left, top, width, height
    if "box" in item.decode:
        left, top, right, bottom = item.decode["box"]
        return left, top, right - left, bottom - top
    return None


def dates_of(item: Item) -> tuple[Item, Item]:
    """Both dates of a pair as items of their own."""
    decode = {key: value for key, value in item.decode.items() if key not in (AFTER, AFTER_DECODE, "digest")}
    after = Path(os.path.normpath(item.source.parent / item.decode[AFTER]))
    return replace(item, decode=decode), replace(item, source=after, decode=dict(item.decode[AFTER_DECODE]))


def load_pair(item: Item) -> np.ndarray:
    """(2, H, W, C) both dates, uint8, or float32 in 0..1."""
    return read_pair(item)[0]


def read_pair(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """Both dates of a window, which may have no value at all.

    Returns:
        (2, H, W, C) uint8, or float32 in 0..1; (H, W) bool, where both dates have a value.

    Raises:
        DataError: one cannot be read, or the dates differ in size or channels.
    """
    (before, valid), (after, other) = (masked_pixels(each.source, each.decode) for each in dates_of(item))
    if before.shape != after.shape:
        shapes = " and ".join(f"{w} x {h} pixels of {c} channels" for h, w, c in (before.shape, after.shape))
        files = " and ".join(str(each.source) for each in dates_of(item))
        raise DataError(f"{files}: have {shapes}; give two dates of one grid and the same --bands")
    if before.dtype != after.dtype:
        before, after = map(in_unit, (before, after))
    return np.stack([before, after]), valid & other


def unit_pair(item: Item) -> tuple[np.ndarray, np.ndarray]:
    """(2, C, H, W) float32 in 0..1, and (H, W) bool, as `read_pair`."""
    pixels, valid = read_pair(item)
    return np.ascontiguousarray(in_unit(pixels).transpose(0, 3, 1, 2)), valid


def _header(item: Item) -> Header | None:
    """None of an image, which lies nowhere."""
    return header_of(files_of_item(item), item.decode.get("sensor")) if is_raster(item.source) else None


def _window(path: Path, box: Box) -> dict[str, Any]:
    """A window as rasters have it, or as images do."""
    left, top, width, height = box
    return {"window": list(box)} if is_raster(path) else {"box": [left, top, left + width, top + height]}

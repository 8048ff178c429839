"""What is computed of bands of training rasters and holds for new ones: ranges of the stretch, means, deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...core.contracts import DomainData, Item
from ...core.errors import DataError
from .pictures import AUTO, BY_IMAGE, PERCENTILES, channel_values, is_raster, picture_of, range_of
from .rasters import header_of

SAMPLED, SAMPLED_SIDE = 64, 256
"""Rasters or windows, and pixels of their longest side, that statistics are computed on."""
LEAST_DEVIATION = 1e-3
"""Of a band that is alike everywhere."""


def with_stretch(data: DomainData, stretch: str | Sequence[float]) -> DomainData:
    """The set whose rasters of more than 8 bits are all stretched from the same ranges, which a run keeps.

    Args:
        data: its items' rasters have no ranges yet.
        stretch: as for `raster_format`; only "auto" computes ranges, percentiles of a sample of the training images,
            without splits of all but test images.

    Raises:
        DataError: rasters of different numbers of channels.
    """
    if stretch != AUTO:
        return data
    deep = [item for item in data.items if is_raster(item.source) and _is_deep(item)]
    training = [item for item in deep if item.split == "train"] or [item for item in deep if item.split != "test"]
    ranges = _ranges_of(training or deep)
    if ranges is None:
        return data
    there = {item.id for item in deep}
    items = [i.with_(decode={**i.decode, "stretch": list(ranges)}) if i.id in there else i for i in data.items]
    pairs = ", ".join(f"{low:g} to {high:g}" for low, high in zip(ranges[::2], ranges[1::2]))
    low, high = PERCENTILES
    note = f"Channels are stretched from {pairs} (percentiles {low:g} and {high:g} of a sample), in prediction too."
    reading = {**data.reading, "stretch": ranges}
    return replace(data, items=items, notes=[*data.notes, note], reading=reading)


def band_statistics(items: Sequence[Item]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of each band of a sample, after the stretch, in 0..1; pixels without a value left
    out. None where no item is a raster.

    Raises:
        DataError: none of them can be read.
    """
    rasters = [item for item in items if is_raster(item.source)]
    if not rasters:
        return None
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    fault: DataError | None = None
    for item in _sampled(rasters):
        try:
            values, valid, pictures, eight_bits = channel_values(item.source, item.decode, SAMPLED_SIDE)
        except DataError as error:
            fault = error
            continue
        how = item.decode.get("stretch", BY_IMAGE)
        shown = picture_of(values, valid, pictures, eight_bits, how, item.source)[valid]  # (N, C)
        shown = shown.astype(np.float64) / (255 if shown.dtype == np.uint8 else 1)
        count, total, squares = count + len(shown), total + shown.sum(axis=0), squares + (shown**2).sum(axis=0)
    if not count:
        raise fault or DataError(f"{rasters[0].source}: no pixel of the training windows has a value")
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, LEAST_DEVIATION**2))
    return tuple(map(float, mean.round(6))), tuple(map(float, deviation.round(6)))


def _sampled(items: Sequence[Item]) -> list[Item]:
    """At most `SAMPLED` of them, evenly apart."""
    places = sorted({round(place) for place in np.linspace(0, len(items) - 1, SAMPLED)}) if items else []
    return [items[place] for place in places]


def _ranges_of(items: Sequence[Item]) -> tuple[float, ...] | None:
    """Low and high of each channel, one after the other; None where nothing can be read."""
    pools: list[list[np.ndarray]] = []
    kinds: list[str] = []
    for item in _sampled(items):
        try:
            values, valid, pictures, _ = channel_values(item.source, item.decode, SAMPLED_SIDE)
        except DataError:
            continue  # what cannot be read is listed where all images are checked
        if not pools:
            pools, kinds = [[] for _ in values], [c.kind for picture in pictures for c in picture]
        if len(values) != len(pools):
            raise DataError(
                f"{item.source}: has {len(values)} channels, others have {len(pools)}; choose the bands by --bands"
            )
        for pool, channel in zip(pools, values):
            pool.append(channel[valid])
    ranges = [range_of(np.concatenate(pool), kind) for pool, kind in zip(pools, kinds)]
    return tuple(round(float(value), 6) for pair in ranges for value in pair) or None


def _is_deep(item: Item) -> bool:
    """Whether a raster has other than 8 bits, as its header says; a file that cannot be read is told later."""
    names = item.decode.get("files")
    files = [item.source.parent / name for name in names] if names else [item.source]
    try:
        return any(kind != "uint8" for kind in header_of(files, item.decode.get("sensor")).kinds)
    except DataError:
        return False

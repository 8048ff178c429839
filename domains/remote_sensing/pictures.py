"""From a raster's bands to what a tower looks at: chosen, computed, stretched to 0..1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, Item
from ...core.data import IMAGE, Format
from ...core.errors import ConfigError, DataError
from .bands import COLOURS, Channel, band_pictures, further_channels
from .gdal import DRIVERS
from .rasters import OpenRaster, header_of, kept_raster, open_raster
from .stacks import PRODUCT_FILES, raster_files, raster_of_folder, stands_for_its_raster

PERCENTILES = (2.0, 98.0)
BY_IMAGE, AUTO = "image", "auto"
STRETCHES = (AUTO, BY_IMAGE)
MOST_SIDE = 2048
"""Pixels of the shortest side of a raster that is looked at as a whole: a larger one is read at that size."""


def raster_format(bands: str | None, sensor: str | None, stretch: str | Sequence[float], max_pixels: int) -> Format:
    """Rasters as the options say.

    Args:
        bands, sensor: as for `channel_values`.
        stretch: "auto", "image", or ranges: low and high for all channels, or of each one after the other.
        max_pixels: most pixels that are decoded.
    """
    channels = further_channels(bands, sensor)
    bands = bands if channels is None else ",".join(channels)
    options = {"bands": bands, "sensor": sensor, "stretch": stretch if isinstance(stretch, str) else list(stretch)}
    options = {name: value for name, value in options.items() if value not in (None, AUTO)}

    def expand(path: Path) -> list[dict[str, Any]]:
        if not stands_for_its_raster(path):
            return []
        header = header_of(
            raster_files(path), sensor
        )  # what cannot be opened is left out before anything asks for its size
        # features of a palette's colours are others than those that were stored of its numbers
        return [{**_files(path), **options, **({"palette": True} if header.palette else {})}]

    return Format(
        "raster",
        (*DRIVERS, *PRODUCT_FILES),
        load=decode_raster,
        expand=expand,
        of_folder=raster_of_folder,
        max_pixels=max_pixels,
        size=_whole_size,
    )


def decode_raster(path: str | Path, decode: dict[str, Any]) -> Decoded:
    """The picture or pictures of a raster; what has no value is black.

    Args:
        path: a raster; the first of several files, or the metadata of a Sentinel-2 product.
        decode: "files" (the other bands' files, relative to the folder), "bands", "sensor", "stretch", "window" (left,
            top, width, height) and "max_pixels", all optional.

    Returns:
        (H, W, 3), uint8 as they are where the bands are of 8 bits, else float32 in 0..1; (T, H, W, 3) of T pictures;
        (H, W, C) of a picture of C > 3 channels.

    Raises:
        DataError: it cannot be read, has no such band, or no value at all.
    """
    return picture_of(*channel_values(path, decode), decode.get("stretch", BY_IMAGE), path)


def picture_of(
    values: np.ndarray,
    valid: np.ndarray,
    pictures: Sequence[Sequence[Channel]],
    eight_bits: bool,
    stretch: str | Sequence[float],
    path: str | Path,
) -> Decoded:
    """What `decode_raster` makes of the values that `channel_values` gives.

    Args:
        stretch: "image", or ranges.

    Raises:
        DataError: ranges of another number of channels.
    """
    if eight_bits:
        shown = np.where(valid, values, 0).astype(np.uint8)
    else:
        channels = [channel for picture in pictures for channel in picture]
        shown = _stretched(values, valid, channels, stretch, path)
    made, start = [], 0
    for picture in pictures:
        of_picture = shown[start : start + len(picture)]
        start += len(picture)
        if len(picture) == 1:
            of_picture = np.broadcast_to(of_picture, (COLOURS, *shown.shape[1:]))
        made.append(np.ascontiguousarray(of_picture.transpose(1, 2, 0)))
    return made[0] if len(made) == 1 else np.stack(made)


def channel_values(
    path: str | Path, decode: dict[str, Any], most_side: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[Channel]], bool]:
    """Values of the channels of all pictures, before any stretch.

    Args:
        path, decode: as of `decode_raster`.
        most_side: longest side to read it at.

    Returns:
        (C, h, w) float32; (h, w) bool, where there are values; the channels of each picture; whether all are bands
        of 8 bits.

    Raises:
        DataError: as `decode_raster`.
    """
    with _opened(Path(path), decode, most_side) as (raster, window, size):
        values, valid, pictures, eight_bits = read_channels(raster, path, decode, window, size)
    if not valid.any():
        raise DataError(f"{path}: {'no pixel of it' if window is None else 'no pixel of the window'} has a value")
    return values, valid, pictures, eight_bits


def valid_pixels(path: str | Path, decode: dict[str, Any]) -> np.ndarray | None:
    """(H, W) bool, where the picture that `decode_raster` makes has values; None: everywhere, as the header says.

    Raises:
        DataError: as `decode_raster`.
    """
    with _opened(Path(path), decode) as (raster, window, size):
        return read_channels(raster, path, decode, window, size)[1] if raster.header.masked else None


def masked_pixels(source: Path, decode: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as they are stored, of a raster or an image, and where they have values, which may be nowhere.

    Args:
        source, decode: of an item; a raster has a "window", an image a "box", where a part of it is read.

    Returns:
        (H, W, C) uint8, or float32 in 0..1, black where there is no value; (H, W) bool.

    Raises:
        DataError: it cannot be read, has no such band, or its bands make several pictures.
    """
    if not is_raster(source):
        pixels = IMAGE.load(source, dict(decode))
        return pixels, np.ones(pixels.shape[:2], bool)
    files = [source.parent / name for name in decode["files"]] if "files" in decode else [source]
    with kept_raster(files, decode.get("sensor")) as raster:
        box = decode.get("window") or (0, 0, raster.header.width, raster.header.height)
        raster.check_size((box[3], box[2]), None, int(decode.get("max_pixels", Item.MAX_PIXELS)))
        values, valid, pictures, eight_bits = read_channels(raster, source, dict(decode), box)
    if len(pictures) > 1:
        raise DataError(f"{source}: --bands makes several pictures of each place; give one composite")
    if not valid.any():  # nothing that a range of its own could be computed of
        kind = np.uint8 if eight_bits else np.float32
        return np.zeros((*valid.shape, max(COLOURS, len(values))), kind), valid
    return picture_of(values, valid, pictures, eight_bits, decode.get("stretch", BY_IMAGE), source), valid


def in_unit(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float32 in 0..1."""
    return pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels.astype(np.float32, copy=False)


@contextmanager
def _opened(path: Path, decode: dict[str, Any], most_side: int | None = None) -> Iterator[tuple]:
    """An open raster, the window of it that is read, None for all of it, and the (height, width) to bring it to."""
    window = decode.get("window")
    files = [path.parent / name for name in decode["files"]] if "files" in decode else [path]
    opened = open_raster if window is None else kept_raster
    with opened(files, decode.get("sensor")) as raster:
        height, width = (raster.header.height, raster.header.width) if window is None else (window[3], window[2])
        # (height, width) to read at, None for as it is.
        shrink = max(height, width) / most_side if most_side else min(height, width) / MOST_SIDE
        size = None if shrink <= 1 else (max(1, round(height / shrink)), max(1, round(width / shrink)))
        raster.check_size((height, width), size, int(decode.get("max_pixels", Item.MAX_PIXELS)))
        yield raster, window, size


def read_channels(
    raster: OpenRaster,
    path: str | Path,
    decode: dict[str, Any],
    window: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, list[list[Channel]], bool]:
    """As `channel_values`, of a part of an open raster, which may have no value at all.

    Args:
        window: (left, top, width, height); None for all of it.
        size: (height, width) to bring it to.
    """
    header = raster.header
    pictures = band_pictures(decode.get("bands"), header.names, str(path), header.alpha)
    channels = [channel for picture in pictures for channel in picture]
    needed = sorted({band for channel in channels for band in channel.bands})
    values, valid = raster.read(needed, window, size)
    of_band = dict(zip(needed, values))
    eight_bits = all(c.kind == "band" and header.kinds[c.bands[0]] == "uint8" for c in channels)
    plain = all((s, o) == (1.0, 0.0) for s, o in zip(header.scaling.scales, header.scaling.offsets))
    return np.stack([_channel(c, of_band) for c in channels]), valid, pictures, eight_bits and plain


def _whole_size(path: Path, decode: dict[str, Any]) -> tuple[int, int]:
    """(width, height), which may be more than can be decoded at once."""
    files = [path.parent / name for name in decode["files"]] if "files" in decode else [path]
    header = header_of(files, decode.get("sensor"))
    return header.width, header.height


def is_raster(path: Path) -> bool:
    """Whether a file is read by rasterio."""
    return path.name.lower().endswith((*DRIVERS, *PRODUCT_FILES))


def check_stretch(value: Any) -> Any:
    """ "auto", "image", or numbers in pairs.

    Raises:
        ConfigError: none of these.
    """
    if isinstance(value, str) and value.strip().lower() in STRETCHES:
        return value.strip().lower()
    try:
        numbers = value.split(",") if isinstance(value, str) else value
        numbers = tuple(float(number) for number in numbers)
        pairs = list(zip(numbers[::2], numbers[1::2]))
    except (TypeError, ValueError):
        pairs, numbers = [], ()
    if not pairs or len(numbers) % 2 or not all(np.isfinite(pair).all() and pair[0] < pair[1] for pair in pairs):
        raise ConfigError("give auto, image, or lowest and highest value: 0,3000, or a pair for each channel")
    return numbers


def _files(path: Path) -> dict[str, Any]:
    """What `decode` says of a raster in several files."""
    files = raster_files(path)
    if files == [path]:
        return {}
    from ...core.data import FileHashes

    hashes = FileHashes()
    digest = hashlib.sha256("".join(hashes.sha256(file) for file in files).encode()).hexdigest()
    return {"files": [file.relative_to(path.parent).as_posix() for file in files], "digest": digest}


def _channel(channel: Channel, of_band: dict[int, np.ndarray]) -> np.ndarray:
    if channel.kind == "band":
        return of_band[channel.bands[0]]
    one, other = (of_band[band] for band in channel.bands)
    if channel.kind == "difference":
        return one - other
    total = one + other
    return np.where(total == 0, 0, (one - other) / np.where(total == 0, 1, total)).astype(np.float32)


def _stretched(values: np.ndarray, valid: np.ndarray, channels: Sequence[Channel], stretch: Any, path) -> np.ndarray:
    """(C, h, w) float32 in 0..1."""
    if isinstance(stretch, str):
        ranges = [range_of(each[valid], c.kind) for each, c in zip(values, channels)]
    else:
        ranges = list(zip(stretch[::2], stretch[1::2]))
        ranges = ranges * len(channels) if len(ranges) == 1 else ranges
    if len(ranges) != len(channels):
        raise DataError(
            f"{path}: has {len(channels)} channels, but --stretch gives ranges for {len(ranges)}; correct it"
        )
    low, high = (np.array(side, np.float32)[:, None, None] for side in zip(*ranges))
    unit = np.clip((values - low) / np.maximum(high - low, np.float32(1e-12)), 0, 1)
    return np.where(valid, unit, 0).astype(np.float32)


def range_of(values: np.ndarray, kind: str) -> tuple[float, float]:
    """Lowest and highest value of a channel that are told apart; an index has its own."""
    if kind == "index":
        return -1.0, 1.0
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high if high > low else low + 1)

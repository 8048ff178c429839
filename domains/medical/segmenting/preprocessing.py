"""Volumes as networks see them: in one orientation and spacing, their values normalised, on disk, a slab at a time.

As nnU-Net does: computed tomography is clipped to percentiles of the foreground of all training volumes and scaled by
their mean and deviation; other volumes are scaled by their own. Sizes follow the ratio of the spacings, edges aligned;
values are interpolated linearly, labels taken from the nearest voxel.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ....core.contracts import Item
from ....core.data import FileHashes
from ....core.features import FeatureStore
from ..volumes import Slabs, files_of, volume_files
from .fingerprint import Fingerprint

VERSION = 2
"""Of what lies in the cache."""
SLAB = 1 << 23
"""Voxels that are resampled at once."""
MOST_LOCATIONS = 10_000
"""Voxels of each structure that are remembered, to centre patches on."""
LEAST_STD = 1e-8
Read = Callable[[int, int], np.ndarray]
"""(start, stop) -> (C, stop - start, Y, X)."""
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Preprocessing:
    """Args:
    spacing: millimetres along Z, Y and X.
    channels: per channel {"low", "high", "mean", "std"} of computed tomography, or {} where each volume is scaled by
        its own mean and deviation.
    """

    spacing: tuple[float, float, float]
    channels: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> Preprocessing:
        """As nnU-Net decides by the fingerprint."""
        names = ("low", "high", "mean", "std")
        channels = [
            {name: getattr(each, name) for name in names} if each.is_ct else {} for each in fingerprint.channels
        ]
        return cls(fingerprint.spacing, tuple(channels))

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Preprocessing:
        return cls(tuple(kept["spacing"]), tuple(dict(each) for each in kept["channels"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def size(self, volume: Slabs) -> Shape:
        """(Z, Y, X) of a volume once it is resampled."""
        z, y, x = (max(1, round(n * s / t)) for n, s, t in zip(volume.shape[1:], volume.spacing, self.spacing))
        return z, y, x


def write_image(volume: Slabs, how: Preprocessing, file: Path) -> Shape:
    """Write a volume as a network sees it, (C, Z, Y, X) float32 in raw bytes; returns (Z, Y, X).

    Raises:
        DataError: the volume cannot be read.
    """
    size, scales = how.size(volume), _scales(volume, how)
    with file.open("wb") as out:
        out.truncate(4 * volume.shape[0] * int(np.prod(size)))
        for start, stop in _rows(size, volume.shape):
            slab = resampled(volume.read, volume.shape[1:], size, start, stop).numpy()
            for channel, (low, high, mean, std) in enumerate(scales):
                values = np.clip(slab[channel], low, high) if low < high else slab[channel]
                centred = np.subtract(values, mean, dtype=np.float64)  # float32 would round the mean
                out.seek(4 * (channel * size[0] + start) * size[1] * size[2])
                out.write(np.ascontiguousarray(centred / max(std, LEAST_STD), dtype=np.float32))
    return size


def read_rows(file: Path, channels: int, size: Shape, start: int, stop: int) -> np.ndarray:
    """(C, stop - start, Y, X) of what `write_image` wrote."""
    plane = size[1] * size[2]
    offsets = [4 * (channel * size[0] + start) * plane for channel in range(channels)]
    rows = [np.fromfile(file, np.float32, (stop - start) * plane, offset=offset) for offset in offsets]
    return np.stack(rows).reshape(channels, stop - start, *size[1:])


@dataclass(frozen=True)
class PreparedCase:
    """A training volume in the cache.

    Args:
        folder: with image.npy (C, Z, Y, X) float32, labels.npy (Z, Y, X) uint8, and locations.npy (n, 4) int32:
            structure, z, y, x.
    """

    folder: Path

    @property
    def image(self) -> np.ndarray:
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    @property
    def locations(self) -> np.ndarray:
        return np.load(self.folder / "locations.npy")


def prepared(files: Sequence[str], mask: str, values: Sequence[Sequence[int]], how: Preprocessing) -> PreparedCase:
    """A training volume in the cache, written there if it is not yet.

    Args:
        files: of its channels. mask: of its labels.
        values: the labels of each structure.

    Raises:
        DataError: a file cannot be read. CacheError: the cache cannot be written.
    """
    sources = FileHashes.of_files([each for file in (*files, mask) for each in volume_files(Path(file))])
    content = json.dumps([VERSION, sources, how.to_json(), [*map(list, values)]])
    name = f"volumes/{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    return PreparedCase(
        FeatureStore.filled(name, lambda empty: _write_case(empty, Slabs(files), Slabs([mask]), values, how))
    )


def case_of(item: Item) -> dict[str, Any]:
    """The arguments of `prepared` of a labelled item, JSON-able."""
    values = [list(of) for of in item.target.values]
    return {
        "files": [os.path.abspath(file) for file in files_of(item)],
        "mask": os.path.abspath(item.target.file),
        "values": values,
    }


def resampled(
    read: Read, size: Sequence[int], wanted: Sequence[int], start: int, stop: int, nearest: bool = False
) -> Tensor:
    """Slices `start` to `stop` of a volume that is brought to another size, edges aligned: (C, stop - start, Y, X).

    What `torch.nn.functional.interpolate` gives of the whole by "trilinear" or, of labels, "nearest-exact".

    Args:
        read: slices of the volume of `size`.
    """
    if tuple(size) == tuple(wanted):
        return torch.from_numpy(np.ascontiguousarray(read(start, stop)))
    at = (np.arange(start, stop) + 0.5) * size[0] / wanted[0]
    at = np.floor(at) if nearest else np.clip(at - 0.5, 0, size[0] - 1)
    below = np.minimum(np.floor(at).astype(int), size[0] - 1)
    above = np.minimum(below + 1, size[0] - 1)
    first, last = int(below.min()), int(above.max() if not nearest else below.max())
    slab = torch.from_numpy(np.ascontiguousarray(read(first, last + 1)))  # (C, z, Y, X)
    if tuple(size[1:]) != tuple(wanted[1:]):
        slab = _in_plane(slab, wanted[1:], nearest)
    if nearest:
        return slab[:, below - first]
    share = torch.from_numpy((at - below).astype(np.float32))[None, :, None, None]
    return torch.lerp(slab[:, below - first], slab[:, above - first], share)


def _in_plane(slab: Tensor, size: Sequence[int], nearest: bool) -> Tensor:
    channels, depth = slab.shape[:2]
    how: dict[str, Any] = {"mode": "nearest-exact"} if nearest else {"mode": "bilinear", "align_corners": False}
    return interpolate(slab.flatten(0, 1)[:, None], size=tuple(size), **how)[:, 0].unflatten(0, (channels, depth))


def _rows(size: Shape, shape: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of slices that are written at once."""
    plane = max(int(np.prod(size[1:])), int(np.prod(shape[2:])) * shape[1] // size[0]) * shape[0]
    depth = max(1, SLAB // max(1, plane))
    return [(start, min(start + depth, size[0])) for start in range(0, size[0], depth)]


def _scales(volume: Slabs, how: Preprocessing) -> list[tuple[float, float, float, float]]:
    """Low, high, mean and deviation of each channel; low is high where nothing is clipped."""
    if all(how.channels):
        own = [(0.0, 1.0)] * volume.shape[0]
    else:
        sums = np.zeros((2, volume.shape[0]))
        for _, slab in volume:
            sums += slab.sum(axis=(1, 2, 3), dtype=np.float64), np.square(slab, dtype=np.float64).sum(axis=(1, 2, 3))
        mean, square = sums / np.prod(volume.shape[1:])
        own = list(zip(mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()))
    return [
        (of["low"], of["high"], of["mean"], of["std"]) if of else (0.0, 0.0, *each)
        for of, each in zip(how.channels, own, strict=True)
    ]


def _write_case(folder: Path, volume: Slabs, mask: Slabs, values: Sequence[Sequence[int]], how: Preprocessing) -> None:
    raw = folder / "image.raw"
    size = write_image(volume, how, raw)
    image = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, (volume.shape[0], *size))
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, size)
    random = np.random.default_rng(0)
    locations: list[list[np.ndarray]] = [[] for _ in values]
    for start, stop in _rows(size, volume.shape):
        image[:, start:stop] = read_rows(raw, volume.shape[0], size, start, stop)
        slab = resampled(mask.read, mask.shape[1:], size, start, stop, nearest=True)[0].numpy().astype(np.uint8)
        labels[start:stop] = slab
        for place, of in enumerate(values):
            at = np.argwhere(np.isin(slab, list(of)))
            kept = at if len(at) <= MOST_LOCATIONS else at[random.permutation(len(at))[:MOST_LOCATIONS]]
            locations[place].append(np.insert(kept + [start, 0, 0], 0, place, axis=1))
    raw.unlink()
    listed = [np.concatenate(of) for of in locations if of]
    drawn = [of[np.sort(random.permutation(len(of))[:MOST_LOCATIONS])] for of in listed]
    np.save(folder / "locations.npy", np.concatenate(drawn).astype(np.int32))

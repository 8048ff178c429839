"""Files of the tile features of one slide: the HDF5 of CLAM and of TRIDENT, CLAM's tensors, and our own.

CLAM: "Data-efficient and weakly supervised computational pathology on whole-slide images" (Lu et al., 2021, arXiv
2004.09666) keeps `features` (T, D) and `coords` (T, 2) in `h5_files/*.h5`, and the features alone in `pt_files/*.pt`.
TRIDENT: "Accelerating Data Processing and Benchmarking of AI Models for Pathology" (Zhang et al., 2025, arXiv
2502.06750) has the same datasets, or `features` (1, T, D), and says at `coords` how the slide was cut. Ours is one
safetensors file with the same two tensors, and a header. Each is read when it is asked for, and stays as it is stored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..contracts.bags import Bag
from ..data.array_files import BOMB_BYTES, BOMB_RATIO
from ..errors import DataError, one_line, shortened
from ..runtime.files import HEADER, caching
from ..runtime.process import need_package
from ..runtime.reading import check_regular

HDF5, TORCH, OURS = (".h5", ".hdf5"), (".pt",), (".safetensors",)
SUFFIXES = (*OURS, *HDF5, *TORCH)
"""Of files of tile features; where a slide has several, the first of them is read."""
FORMAT = 1
"""Of our files."""
FEATURES, COORDS = "features", "coords"
NAMES = {"patch_size": "side", "patch_size_level0": "level0_side", "level0_width": "width", "level0_height": "height"}
"""What TRIDENT and CLAM call what they say of tiles -> what `Tiles` calls it."""
KEPT = frozenset({"side", "level0_side", "mpp", "width", "height", "origin"})
ENCODER_FOLDER = re.compile(r"features_(\w{1,80})")
"""The folder of TRIDENT's features of an encoder."""
CURE = "encode the slide again"
DTYPES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""Of features in our files, as safetensors calls them."""
PICKLE = b"\x80"
"""How files of torch before 1.6 begin, which are no archives."""
MOST_TILES = 10**12
"""Of a slide: room for their number in a header that is written before they are counted."""


@dataclass(frozen=True)
class BagFile:
    """One file, looked at and not read: a `Bag` of one scale.

    Args:
        path: of the file.
        dim: D.
        count: T.
        attributes: as of `Tiles`, as far as the file says them.
        encoder: what made the features: a fingerprint in our files, a name in TRIDENT's; "" where it is not known.
    """

    path: Path
    dim: int
    count: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    encoder: str = ""

    @property
    def counts(self) -> tuple[int, ...]:
        return (self.count,)

    def read(self, scale: int) -> Tensor:
        with _tensors(self.path) as tensors:
            rows = tensors.features()
            if tuple(rows.shape) != (self.count, self.dim):
                raise DataError(f"{self.path}: has changed while it was used; start again")
            return rows

    def coords(self, scale: int) -> Tensor | None:
        with _tensors(self.path) as tensors:
            return tensors.coords()


@dataclass(frozen=True)
class JoinedBag:
    """The tiles of several slides as one bag. It has no coords, since those of each slide count from its own corner.

    Args:
        bags: of the slides, in their order.
        slides: what each is called.
    """

    bags: tuple[Bag, ...]
    slides: tuple[str, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(sum(counts) for counts in zip(*(bag.counts for bag in self.bags), strict=True))

    @property
    def dim(self) -> int:
        return self.bags[0].dim

    @property
    def attributes(self) -> Mapping[str, Any]:
        return {}

    def read(self, scale: int) -> Tensor:
        return torch.cat([bag.read(scale) for bag in self.bags])

    def coords(self, scale: int) -> Tensor | None:
        return None


@dataclass(frozen=True)
class ScaledBag:
    """The tiles of one slide at several magnifications.

    Args:
        bags: of each, the finest first.
    """

    bags: tuple[Bag, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(bag.counts[0] for bag in self.bags)

    @property
    def dim(self) -> int:
        return self.bags[0].dim

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.bags[0].attributes

    def read(self, scale: int) -> Tensor:
        return self.bags[scale].read(0)

    def coords(self, scale: int) -> Tensor | None:
        return self.bags[scale].coords(0)


def open_bag(path: str | Path) -> BagFile:
    """A file of tile features, of which the header and the places of the tiles are read.

    Raises:
        DataError: not such a file, a damaged one, one without a tile, or whose coords do not fit its features or slide.
        CapabilityError: an HDF5 file where h5py is not installed.
    """
    path = Path(path)
    with _tensors(path) as tensors:
        count, dim = tensors.shape()
        attributes = {name: value for name, value in tensors.attributes().items() if name in KEPT}
        _check_coords(path, tensors.coords(), count, attributes)
        return BagFile(path, dim, count, attributes, tensors.encoder())


def write_bag(
    path: str | Path,
    features: Iterable[Tensor],
    coords: Tensor | np.ndarray | None,
    attributes: Mapping[str, Any],
    encoder: str = "",
    backbone: str = "",
) -> Path:
    """Write our own file to the cache, whole or not at all. Returns the path.

    Args:
        features: rows (k, D) of some tiles after the others, or (T, D) of all; floating-point numbers, which stay of
            their type. They are taken while the file is written, so that no more than some need be held.
        coords: (T, 2), as of `Tiles`, or None.
        attributes: as of `Tiles`.
        encoder: fingerprint of the backbone.
        backbone: its spec, for who reads the header; nothing is loaded by what a file says.

    Raises:
        CacheError: nothing can be written there. What `features` raise passes, and leaves nothing.
    """
    stated = {"format": FORMAT, "attributes": dict(attributes), "encoder": encoder, "backbone": backbone}
    places = None if coords is None else torch.as_tensor(coords).long().cpu().contiguous()

    def header(dtype: torch.dtype, width: int, count: int) -> bytes:
        """Of a safetensors file, with spaces up to where its tensors begin, whatever their count."""
        end = count * width * dtype.itemsize
        entries: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(stated)}}
        entries[FEATURES] = {"dtype": DTYPES[dtype], "shape": [count, width], "data_offsets": [0, end]}
        if places is not None:
            size = places.numel() * places.itemsize
            entries[COORDS] = {"dtype": "I64", "shape": list(places.shape), "data_offsets": [end, end + size]}
        return json.dumps(entries).encode()

    with caching(Path(path)) as file:
        count, reserved = 0, 0
        for rows in features:
            rows = torch.atleast_2d(rows).cpu().contiguous()
            if not count:
                dtype, width = rows.dtype, rows.shape[1]
                reserved = -(-len(header(dtype, width, MOST_TILES)) // 8) * 8
                file.seek(8 + reserved)
            file.write(rows.view(torch.uint8).numpy())
            count += len(rows)
        if not count:
            raise DataError(f"{path}: no tile to write; leave the slide out")
        if places is not None:
            file.write(places.view(torch.uint8).numpy())
        file.seek(0)
        file.write(reserved.to_bytes(8, "little") + header(dtype, width, count).ljust(reserved))
    return Path(path)


def _check_coords(path: Path, coords: Tensor | None, count: int, attributes: Mapping[str, Any]) -> None:
    if coords is None:
        return
    if tuple(coords.shape) != (count, 2):
        raise DataError(f"{path}: coords have shape {tuple(coords.shape)} for {count} tiles; {CURE}")
    if bool((coords < 0).any()):
        raise DataError(f"{path}: coords lie outside of the slide; {CURE}")
    for axis, name in enumerate(("width", "height")):
        size, furthest = attributes.get(name), int(coords[:, axis].max())
        if size is not None and furthest >= size:
            raise DataError(f"{path}: coords reach {furthest}, beyond the {name} of the slide, {size:g}; {CURE}")


@contextmanager
def _tensors(path: Path) -> Iterator[_Hdf5 | _Torch | _Ours]:
    """The datasets of a file, open.

    Raises:
        DataError: it is not of a known kind, or damaged.
    """
    check_regular(path)
    suffix = path.suffix.lower()
    kind = next((kind for of, kind in ((HDF5, _Hdf5), (TORCH, _Torch), (OURS, _Ours)) if suffix in of), None)
    if kind is None:
        raise DataError(f"{path}: not a file of tile features; known: {' '.join(SUFFIXES)}")
    try:
        with kind.opened(path) as tensors:
            yield tensors
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{path}: not a readable file of tile features ({one_line(error)}); {CURE}") from None
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":  # what torch refuses to run
            raise DataError(f"{path}: holds more than tensors, which is never opened; save the tensor alone") from None
        raise


def _checked_shape(path: Path, shape: tuple[int, ...], floating: bool, kind: Any) -> tuple[int, int]:
    """(T, D) of features (T, D) or (1, T, D)."""
    flat = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(flat) != 2 or not floating:
        raise DataError(f"{path}: features have shape {shape} of {kind}; (T, D) floating-point numbers are needed")
    if 0 in flat:
        raise DataError(f"{path}: holds no tile; cut the slide with a lower share of tissue, or leave it out")
    return flat[0], flat[1]


def _places(path: Path, coords: Tensor) -> Tensor:
    """Coords as whole numbers, of whichever type they are stored."""
    if coords.is_complex() or (coords.is_floating_point() and not bool(coords.isfinite().all())):
        raise DataError(f"{path}: coords hold values that are no numbers of pixels; {CURE}")
    return coords.long()


def _is_size(value: Any) -> bool:
    """Whether a header has a number that pixels may have."""
    return isinstance(value, (int, float)) and 0 <= value < math.inf


@dataclass(frozen=True)
class _Hdf5:
    """CLAM's and TRIDENT's."""

    path: Path
    file: Any

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[_Hdf5]:
        need_package(f"{path.name}: HDF5", "h5py", "slides")
        import h5py

        with h5py.File(path, "r") as file:
            yield cls(path, file)

    def _dataset(self, name: str) -> Any:
        """A dataset that lies in this file, and has the bytes that it claims."""
        import h5py

        link = self.file.get(name, getlink=True) if name in self.file else None
        if link is None:
            held = ", ".join(shortened(key) for key in list(self.file)[:6]) or "nothing"
            raise DataError(f"{self.path}: holds no {name} (it has {held}); give the features of its tiles")
        dataset = self.file[name] if isinstance(link, h5py.HardLink) else None
        if dataset is not None and not (isinstance(dataset, h5py.Dataset) and dataset.shape):
            raise DataError(f"{self.path}: {name} is no array; {CURE}")
        if dataset is None or dataset.external or dataset.is_virtual:
            raise DataError(f"{self.path}: {name} lies in another file; copy it into this one")
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        if size > BOMB_BYTES and size > BOMB_RATIO * dataset.id.get_storage_size():
            raise DataError(f"{self.path}: {name} unpacks to {size:,} bytes, far more than the file holds; {CURE}")
        return dataset

    def shape(self) -> tuple[int, int]:
        features = self._dataset(FEATURES)
        return _checked_shape(self.path, features.shape, features.dtype.kind == "f", features.dtype)

    def features(self) -> Tensor:
        rows = self._dataset(FEATURES)[...]
        return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False)).reshape(self.shape())

    def coords(self) -> Tensor | None:
        if COORDS not in self.file:
            return None
        coords = self._dataset(COORDS)
        if coords.dtype.kind not in "iuf":
            raise DataError(f"{self.path}: coords are {coords.dtype} values; pairs of whole numbers are needed")
        numbers = coords[...].astype(np.float64 if coords.dtype.kind == "f" else np.int64)
        return _places(self.path, torch.from_numpy(numbers)).reshape(-1, coords.shape[-1])

    def attributes(self) -> dict[str, Any]:
        stated = self._stated(COORDS)
        numbers = {name: value for name, value in stated.items() if isinstance(value, float) and value > 0}
        made = {ours: round(numbers[name]) for name, ours in NAMES.items() if name in numbers}
        if "level0_side" not in made and "side" in made and "downsample" in numbers:
            made["level0_side"] = round(made["side"] * numbers["downsample"])
        return made

    def encoder(self) -> str:
        encoder = self._stated(FEATURES).get("encoder")
        named = ENCODER_FOLDER.fullmatch(self.path.parent.name)
        return encoder if isinstance(encoder, str) else named[1] if named else ""

    def _stated(self, name: str) -> dict[str, float | str]:
        """Numbers and texts among the attributes of a dataset; of a pair of numbers the first."""
        made: dict[str, float | str] = {}
        for key, value in self.file[name].attrs.items() if name in self.file else ():
            value = value.decode(errors="replace") if isinstance(value, bytes) else value
            number = np.asarray(value).reshape(-1)[:1]
            if isinstance(value, str):
                made[key] = shortened(value)
            elif number.dtype.kind in "iuf" and len(number) and np.isfinite(number[0]):
                made[key] = float(number[0])
        return made


@dataclass(frozen=True)
class _Torch:
    """CLAM's tensor, or a dict with `features` and `coords`; mapped, but for the files of torch before 1.6."""

    path: Path
    held: Mapping[str, Any]

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[_Torch]:
        mapped = is_zipfile(path)
        with path.open("rb") as file:
            if not mapped and file.read(1) != PICKLE:
                raise DataError(f"{path}: not a file that torch wrote; {CURE}")
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        yield cls(path, held if isinstance(held, Mapping) else {FEATURES: held})

    def _tensor(self, name: str) -> Tensor:
        value = self.held.get(name)
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise DataError(f"{self.path}: holds no tensor of {name}; save the (T, D) tensor alone")
        return value

    def shape(self) -> tuple[int, int]:
        features = self._tensor(FEATURES)
        return _checked_shape(self.path, tuple(features.shape), features.is_floating_point(), features.dtype)

    def features(self) -> Tensor:
        return self._tensor(FEATURES).reshape(self.shape())

    def coords(self) -> Tensor | None:
        return _places(self.path, self._tensor(COORDS)) if COORDS in self.held else None

    def attributes(self) -> dict[str, Any]:
        return {}

    def encoder(self) -> str:
        return ""


@dataclass(frozen=True)
class _Ours:
    """Ours, mapped."""

    path: Path
    file: Any
    header: Mapping[str, Any]

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[_Ours]:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            if not isinstance(header, dict) or header.get("format") != FORMAT or FEATURES not in file.keys():  # noqa: SIM118
                raise DataError(
                    f"{path}: not a file of tile features that vladapt wrote; give those of CLAM or TRIDENT"
                )
            yield cls(path, file, header)

    def shape(self) -> tuple[int, int]:
        stored = self.file.get_slice(FEATURES)
        return _checked_shape(
            self.path, tuple(stored.get_shape()), stored.get_dtype() in DTYPES.values(), stored.get_dtype()
        )

    def features(self) -> Tensor:
        return self.file.get_tensor(FEATURES).reshape(self.shape())

    def coords(self) -> Tensor | None:
        return _places(self.path, self.file.get_tensor(COORDS)) if COORDS in self.file.keys() else None  # noqa: SIM118

    def attributes(self) -> dict[str, Any]:
        stated = self.header.get("attributes")
        if not isinstance(stated, dict):
            return {}
        numbers = {name: value for name, value in stated.items() if _is_size(value) and value > 0}
        origin = stated.get("origin")
        placed = isinstance(origin, list) and len(origin) == 2 and all(_is_size(each) for each in origin)
        return {**numbers, "origin": origin} if placed else numbers

    def encoder(self) -> str:
        return shortened(str(self.header.get("encoder") or ""), 300)

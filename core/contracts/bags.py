"""Samples of so many parts that they are read one sample at a time: the tiles of a slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CapabilityError, DataError
from .families import TILES

TEXTS = "texts"
"""In the spec of stored tile features with vectors of class texts."""
ROWS_AT_ONCE = 4096
"""Parts of a bag that are summed at once."""


class Tiles(Protocol):
    """The tiles of one sample, as they lie in its file: none is decoded before it is asked for.

    Attributes:
        coords: (T, 2) int64, x and y of their upper left corners in pixels of the largest level.
        attributes: JSON-able: "side" of a tile as it is read, in pixels; "level0_side", the same in pixels of the
            largest level; "mpp", micrometres per pixel as it is read; "width" and "height" of the largest level;
            "origin", x and y of what was scanned.
    """

    coords: np.ndarray
    attributes: Mapping[str, Any]

    def read(self, rows: range) -> np.ndarray:
        """(k, side, side, 3) uint8, the pixels of some tiles; what the file does not have is white.

        Raises:
            DataError: the file is damaged there.
        """


class Bag(Protocol):
    """The features of the parts of one sample.

    Attributes:
        counts: T, number of parts, of each scale.
        dim: D, their width.
        attributes: JSON-able, as of `Tiles`, as far as they are known.
    """

    @property
    def counts(self) -> tuple[int, ...]: ...

    @property
    def dim(self) -> int: ...

    @property
    def attributes(self) -> Mapping[str, Any]: ...

    def read(self, scale: int) -> Tensor:
        """(T, D) floating-point numbers.

        Raises:
            DataError: the file is damaged.
        """

    def coords(self, scale: int) -> Tensor | None:
        """(T, 2) int64 as of `Tiles`, or None where they are not known."""


@dataclass(frozen=True)
class HeldBag:
    """A bag in memory, of one scale.

    Args:
        rows: (T, D).
        places: (T, 2) int64, its `coords`, or None.
        attributes: as of `Bag`.
    """

    rows: Tensor
    places: Tensor | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, ...]:
        return (len(self.rows),)

    @property
    def dim(self) -> int:
        return self.rows.shape[1]

    def read(self, scale: int) -> Tensor:
        return self.rows

    def coords(self, scale: int) -> Tensor | None:
        return self.places


@dataclass(frozen=True)
class StoredTiles:
    """Where the features of the tiles of a data set lie.

    Args:
        of: item -> its bag, of which no more is read than its header.
        backbone: spec of what made them.
        texts: file of the vectors of class texts that go with them, or None.
    """

    of: Callable[[Any], Bag]
    backbone: str
    texts: str | None = None

    def check_of(self, fitted: str, place: str) -> None:
        """Raise the CapabilityError of features that another encoder made than those that a run was fitted on; one
        without a name may be any of its width.

        Args:
            fitted: backbone of the run, by its spec.
            place: of the features, for the message.
        """
        (width, encoder), (other, of) = _width_and_encoder(fitted), _width_and_encoder(self.backbone)
        if width and (width != other or (encoder and of and encoder != of)):
            ours, theirs = (
                f"{wide} wide{f' and of {name}' if name else ''}" for wide, name in ((width, encoder), (other, of))
            )
            raise CapabilityError(
                f"{place}: its features are {theirs}, those of the fit {ours}; give features of the encoder of the fit"
            )


class Bags(Sequence[Tensor]):
    """N bags of parts, each (T, D) float32, read when it is asked for and held by nobody else.

    Where slides were encoded at several magnifications, each bag has several scales, 0 the finest: `of_scale` gives the
    bags of another.

    Args:
        bags: N of them, all of one width and of as many scales.
        device: to which a bag is moved when it is read; None leaves it where it is.
        scale: that is read.

    Raises:
        DataError: widths or scales differ.
    """

    def __init__(self, bags: Iterable[Bag], device: Any = None, scale: int = 0):
        self._bags, self.device, self.scale = tuple(bags), device, scale
        for name, values in (("width", self._widths), ("number of scales", {len(bag.counts) for bag in self._bags})):
            if len(values) > 1:
                raise DataError(f"bags differ in {name} ({', '.join(map(str, sorted(values)))}); encode them alike")

    @property
    def _widths(self) -> set[int]:
        return {bag.dim for bag in self._bags}

    def __len__(self) -> int:
        return len(self._bags)

    def __getitem__(self, row):  # a bag of a row; `select` gives several
        rows = self._bags[row].read(self.scale)
        return rows.to(rows.device if self.device is None else self.device).float()  # halves are moved as halves

    def __repr__(self) -> str:
        return f"{len(self)} bags of {sum(self.counts)} parts"

    @property
    def dim(self) -> int:
        """D; 0 without a bag."""
        return next(iter(self._widths), 0)

    @property
    def counts(self) -> tuple[int, ...]:
        """Parts of each bag."""
        return tuple(bag.counts[self.scale] for bag in self._bags)

    @property
    def scales(self) -> int:
        """Magnifications of each bag."""
        return max((len(bag.counts) for bag in self._bags), default=1)

    def stored(self, row: int) -> Bag:
        """A bag as it is stored, of which nothing is read."""
        return self._bags[row]

    def coords(self, row: int) -> Tensor | None:
        """(T, 2) int64 on the CPU, where the tiles of a bag lie, as of `Tiles`; None where that is not known."""
        return self._bags[row].coords(self.scale)

    def attributes(self, row: int) -> Mapping[str, Any]:
        """What is known of the tiles of a bag, as of `Tiles`."""
        return self._bags[row].attributes

    def of_scale(self, scale: int) -> Bags:
        """The same bags at another magnification, 0 the finest."""
        return Bags(self._bags, self.device, scale)

    def by_scale(self, scales: int | None = None) -> Sequence[tuple[Tensor, ...]]:
        """The same bags at all magnifications, or the first ones, the finest first, read when they are asked for."""
        return _AllScales([self.of_scale(scale) for scale in range(scales or self.scales)])

    def select(self, rows: Iterable[Any]) -> Bags:
        """The bags of some rows, none of which is read."""
        positions = rows.tolist() if isinstance(rows, Tensor) else rows
        return Bags([self._bags[row] for row in positions], self.device, self.scale)

    def to(self, device: Any) -> Bags:
        """The same bags, which are moved to a device as they are read."""
        return Bags(self._bags, device, self.scale)

    def means(self) -> Tensor:
        """(N, D) float32 on the device, the mean of each bag, summed in float64 part by part; one bag is held."""
        means = [mean_of_rows(bag.read(self.scale)) for bag in self._bags]
        return torch.stack(means).to(self.device) if means else torch.zeros(0, self.dim, device=self.device)


class _AllScales(Sequence[tuple[Tensor, ...]]):
    def __init__(self, scales: Sequence[Bags]):
        self._scales = scales

    def __len__(self) -> int:
        return len(self._scales[0])

    def __getitem__(self, row):
        return tuple(bags[row] for bags in self._scales)


def mean_of_rows(rows: Tensor) -> Tensor:
    """The mean of (T, D), added up as `mean_of_parts` does, to the bit."""
    total = np.zeros((1, rows.shape[1]))
    for some in rows.split(ROWS_AT_ONCE):
        total = np.add.reduce(np.concatenate([total, some.double().cpu().numpy()]), axis=0, keepdims=True)
    return torch.from_numpy(total[0] / len(rows)).float()


def is_tiles_spec(spec: str) -> bool:
    """Whether a backbone is stored tile features."""
    return spec.partition(":")[0] == TILES


def _width_and_encoder(spec: str) -> tuple[str, str]:
    """Of what `tiles_spec` made, the encoder "" where nothing says it; empty of another backbone."""
    width, *further = spec.partition(":")[2].split(",")
    return (width, next((word for word in further if word != TEXTS), "")) if is_tiles_spec(spec) else ("", "")


def tiles_spec(width: int, encoder: str, texts: bool) -> str:
    """By which stored tile features are a backbone.

    Args:
        encoder: name of what made them, "" where nothing says it.
        texts: whether vectors of class texts come with them.
    """
    name = "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in encoder)
    return f"{TILES}:{','.join(filter(None, (str(width), name, TEXTS if texts else '')))}"

"""One bag as a request brings it: features of its parts, and where these lie, in an `.npz` or a `.safetensors` file.

Its header is looked at first; values are unpacked only where they are no more than is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ..errors import DataError, LimitError
from .array_files import ArrayFile

FEATURES, COORDS, COARSE = "features", "coords", "coarse"
NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
"""Types of safetensors that are read."""


@dataclass(frozen=True)
class SentBag:
    """A file whose header is as it should be: `features` (T, D), where the parts lie `coords` (T, 2), and of two
    magnifications the `coarse` features (S, D) of the lower one.

    Args:
        path: of the file, `.npz` or `.safetensors`.
        width: D.
        most_bytes: that the arrays may have, unpacked.
        magnifications: 1 or 2.

    Raises:
        DataError: another kind of file, damaged, without features, or with features of another width. LimitError: too
            large.
    """

    path: Path
    width: int
    most_bytes: int
    magnifications: int = 1

    def __post_init__(self):
        kinds = self._kinds()
        for name in reversed(self._scales):
            if name not in kinds:
                raise DataError(f"{self.path}: lacks the array '{name}' (parts x width); store the features under it")
            shape, dtype = kinds[name]
            if len(shape) != 2 or not shape[0] or dtype.kind != "f":
                raise DataError(f"{self.path}: {name} are {dtype} {shape}; (parts, {self.width}) floats are needed")
            if shape[1] != self.width:
                raise DataError(
                    f"{self.path}: {name} are {shape[1]} wide, the run takes {self.width}; use the encoder of the fit"
                )
        where, whole = kinds.get(COORDS, ((shape[0], 2), np.dtype(np.int64)))
        if where != (shape[0], 2) or whole.kind not in "iu":
            raise DataError(f"{self.path}: coords are {whole} {where}; ({shape[0]}, 2) whole numbers are needed")
        size = sum(math.prod(kinds[name][0]) * kinds[name][1].itemsize for name in self._read if name in kinds)
        if size > self.most_bytes:
            raise LimitError(
                f"{self.path}: {size >> 20} MB of features, the limit is {self.most_bytes >> 20}; send fewer parts, or "
                "raise --max-mb"
            )

    @property
    def _scales(self) -> tuple[str, ...]:
        """The arrays of features, the finest first."""
        return (FEATURES, COARSE)[: self.magnifications]

    @property
    def _read(self) -> tuple[str, ...]:
        return (*self._scales, COORDS)

    def read(self) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
        """(T, D) float32 features of each magnification, the finest first, and (T, 2) int64 places of those or None.

        Raises:
            DataError: damaged, or NaN or infinity among the features.
        """
        names = [name for name in self._read if name in self._kinds()]
        if self._zipped:
            arrays = ArrayFile(self.path).load(names)
        else:
            with self._opened() as file:
                arrays = {name: file.get_tensor(name) for name in names}
        with np.errstate(over="ignore"):  # of float64
            scales = tuple(np.ascontiguousarray(arrays[name], dtype=np.float32) for name in self._scales)
        for name, features in zip(self._scales, scales):
            if len(bad := np.flatnonzero(~np.isfinite(features).all(axis=1))):
                raise DataError(f"{self.path}: NaN or infinity in row {bad[0]} of {name}; extract them again")
        where = arrays.get(COORDS)
        return scales, None if where is None else where.astype(np.int64)

    @property
    def _zipped(self) -> bool:
        return self.path.suffix.lower() == ".npz"

    def _kinds(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Name -> shape and type of each array that is read."""
        if self._zipped:
            return {name: (each.shape, each.dtype) for name, each in ArrayFile(self.path).headers().items()}
        if self.path.suffix.lower() != ".safetensors":
            raise DataError(
                f"{self.path}: not a .safetensors or .npz file; send the features of the parts, not slides or HDF5"
            )
        kinds = {}
        with self._opened() as file:
            for name in set(self._read) & set(file.keys()):
                part = file.get_slice(name)
                if part.get_dtype() not in NUMBERS:
                    raise DataError(f"{self.path}: {name} are {part.get_dtype()}; store them as float16 or float32")
                kinds[name] = (tuple(part.get_shape()), np.dtype(NUMBERS[part.get_dtype()]))
        return kinds

    def _opened(self):
        try:
            return safe_open(str(self.path), framework="np")
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{self.path}: not a readable safetensors file ({error}); save or copy it again") from None

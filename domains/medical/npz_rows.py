"""Rows of the arrays in an .npz, without holding large arrays in memory and without ever unpickling."""

from __future__ import annotations

import math
import threading
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...core.data import ArrayFile, FileHashes, remember_by_file
from ...core.errors import DataError
from ...core.runtime import cache_folder, caching, check_regular

OPENING = threading.Lock()
SMALL_BYTES = 256 << 20
"""Arrays up to this size are held in memory; larger ones are unpacked once into the cache and memory-mapped."""

KEPT_ARRAYS = 6


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a file.

    Raises:
        DataError: not a readable .npz.
    """
    return tuple(_headers(path))


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array, from its header."""
    return _header(path, name)[0]


def read_array(path: Path, name: str) -> np.ndarray:
    """A whole array.

    Raises:
        DataError: no such array, damaged, or pickled objects.
    """
    return ArrayFile(path).load([name])[name]


def iterate_rows(path: Path, name: str) -> Iterator[bytes]:
    """The bytes of each row in order, read as a stream."""
    shape, dtype = _header(path, name)
    size = math.prod(shape[1:]) * dtype.itemsize
    with ArrayFile(path).values(name) as stream:
        for _ in range(shape[0]):
            row = stream.read(size)
            if len(row) != size:
                raise DataError(f"{path}: array {name} is cut short; copy the file again")
            yield row


def array_row(path: Path, name: str, index: int) -> np.ndarray:
    """One row of an array."""
    with ArrayFile(path).reading():
        with OPENING:
            array = _opened(path, name)
        return np.asarray(array[index])


def _headers(path: Path) -> dict:
    check_regular(path)
    return _remembered_headers(path)


@remember_by_file(size=64)
def _remembered_headers(path: Path) -> dict:
    return ArrayFile(path).headers()


def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array that is stored row by row."""
    headers = _headers(path)
    if name not in headers:
        raise DataError(f"{path}: lacks the array '{name}'; give a MedMNIST .npz")
    shape, by_columns, dtype = headers[name]
    if 0 in shape[1:]:
        raise DataError(f"{path}: array {name} has shape {shape}, whose rows are empty; copy the file again")
    if by_columns or not shape:
        raise DataError(f"{path}: array {name} is not stored row by row; save it again with numpy.ascontiguousarray")
    return shape, dtype


@remember_by_file(size=KEPT_ARRAYS)
def _opened(path: Path, name: str) -> np.ndarray:
    shape, dtype = _header(path, name)
    if math.prod(shape) * dtype.itemsize <= SMALL_BYTES:
        return read_array(path, name)
    return np.load(_unpacked(path, name), mmap_mode="r", allow_pickle=False)


def _unpacked(path: Path, name: str) -> Path:
    """The array as an .npy in the cache, written atomically."""
    key = sha256(f"{FileHashes.of_file(path)}\n{name}".encode()).hexdigest()
    target = cache_folder("arrays") / f"{key}.npy"
    if target.is_file():
        return target
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream, caching(target) as out:
        while chunk := stream.read(1 << 20):
            out.write(chunk)
    return target

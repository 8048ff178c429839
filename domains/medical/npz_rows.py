"""Rows of the arrays in an .npz, without holding large arrays in memory and without ever unpickling."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...core.data.verify import remember_by_file
from ...core.errors import DataError
from ...core.runtime.files import cached_folder, caching

OPENING = threading.Lock()
SMALL_BYTES = 256 << 20
"""Arrays up to this size are held in memory; larger ones are unpacked once into the cache and memory-mapped."""

KEPT_ARRAYS = 6


def array_names(path: Path) -> tuple[str, ...]:
    """Names of the arrays in a file.

    Raises:
        DataError: not a readable .npz.
    """
    with _reporting(path):
        return _array_names(path)


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array, from its header."""
    with _reporting(path):
        return _header(path, name)[0]


def read_small(path: Path, name: str) -> np.ndarray:
    """A whole array.

    Raises:
        DataError: no such array, damaged, or pickled objects.
    """
    with _reporting(path), np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def iterate_rows(path: Path, name: str) -> Iterator[bytes]:
    """The bytes of each row in order, read as a stream."""
    shape, dtype = array_shape(path, name), _header(path, name)[1]
    size = int(np.prod(shape[1:])) * dtype.itemsize
    with _reporting(path), zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        _read_header(stream)
        for _ in range(shape[0]):
            row = stream.read(size)
            if len(row) != size:
                raise DataError(f"{path}: array {name} is cut short; copy the file again")
            yield row


def row_of(path: Path, name: str, index: int) -> np.ndarray:
    """One row of an array."""
    with _reporting(path):
        with OPENING:
            array = _opened(path, name)
        return np.asarray(array[index])


@remember_by_file(size=64)
def _array_names(path: Path) -> tuple[str, ...]:
    with zipfile.ZipFile(path) as archive:
        return tuple(name[: -len(".npy")] for name in archive.namelist() if name.endswith(".npy"))


@remember_by_file(size=64)
def _header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        shape, fortran_order, dtype = _read_header(stream)
    if dtype.hasobject:
        raise DataError(f"{path}: array {name} holds pickled objects, which are never opened; store plain numbers")
    if fortran_order or not shape:
        raise DataError(f"{path}: array {name} is not stored row by row; save it again with numpy.ascontiguousarray")
    return shape, dtype


def _read_header(stream) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


@remember_by_file(size=KEPT_ARRAYS)
def _opened(path: Path, name: str) -> np.ndarray:
    shape, dtype = _header(path, name)
    if int(np.prod(shape)) * dtype.itemsize <= SMALL_BYTES:
        return read_small(path, name)
    return np.load(_unpacked(path, name), mmap_mode="r", allow_pickle=False)


def _unpacked(path: Path, name: str) -> Path:
    """The array as an .npy in the cache, written atomically."""
    stat = path.stat()
    key = sha256(f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{name}".encode()).hexdigest()
    folder = Path(os.environ.get("VLADAPT_CACHE") or Path.home() / ".cache" / "vladapt") / "arrays"
    target = folder / f"{key}.npy"
    if target.is_file():
        return target
    cached_folder(folder)
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream, caching(target) as out:
        while chunk := stream.read(1 << 20):
            out.write(chunk)
    return target


@contextmanager
def _reporting(path: Path):
    """What zipfile, zlib and numpy raise on a bad file, as a DataError."""
    import zlib

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except KeyError as error:
        raise DataError(f"{path}: lacks the array {error}; give a MedMNIST .npz") from None
    except ValueError as error:
        reason = "holds pickled objects, which are never opened" if "pickle" in str(error).lower() else str(error)
        raise DataError(f"{path}: cannot be read ({reason}); copy it again") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: not a readable .npz ({error}); copy it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check space and permissions") from None

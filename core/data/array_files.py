"""Files of numpy arrays (`.npz`, `.npy`), looked at before they are opened: what an array claims, and what it has."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..errors import DataError, shortened
from ..runtime.reading import open_regular

SUFFIX = ".npy"
PICKLE = b"\x80"
"""Its first byte."""
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
"""An array that unpacks to more than these bytes, and to so many times what is packed, is taken for a bomb."""
PICKLED = "holds pickled objects, which are never opened; save names as plain text arrays (dtype '<U')"


class ArrayHeader(NamedTuple):
    """What an array is like.

    Args:
        by_columns: whether its columns are stored one after the other.
    """

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype


@dataclass(frozen=True)
class ArrayFile:
    """An `.npz`, or with `single` an `.npy`, whatever it holds.

    Args:
        path: of the file.
    """

    path: Path

    def headers(self) -> dict[str, ArrayHeader]:
        """Name -> header of each array, none of which is unpacked.

        Raises:
            DataError: no such file, not an `.npz`, damaged; an array holds pickled objects, has not the bytes that its
                shape needs, or unpacks to very many times what is packed.
        """
        with open_regular(self.path) as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            raise DataError(f"{self.path}: holds one array, not several; save it with numpy.savez")
        if start[:1] == PICKLE:
            raise DataError(f"{self.path}: {PICKLED}")
        with self.reading(), zipfile.ZipFile(self.path) as archive:
            members = {info.filename: info for info in archive.infolist() if info.filename.endswith(SUFFIX)}
            return {name[: -len(SUFFIX)]: _checked(self.path, archive, info) for name, info in members.items()}

    def load(self, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays, all or some.

        Raises:
            DataError: as `headers`, or there is none of a name.
        """
        headers = self.headers()
        with self.reading(), np.load(self.path, allow_pickle=False) as arrays:
            names = list(headers) if names is None else names
            if missing := [name for name in names if name not in headers]:
                raise KeyError(missing[0])
            # by the whole name: numpy prefers a member without the ending, which was not looked at
            return {name: arrays[f"{name}{SUFFIX}"] for name in names}

    def single(self) -> np.ndarray:
        """The array of an `.npy`.

        Raises:
            DataError: no such file, not an `.npy`, damaged, or it holds pickled objects.
        """
        with open_regular(self.path) as file, self.reading():
            header = _header(file)
            left = self.path.stat().st_size - file.tell()
            if header.dtype.hasobject:
                raise DataError(f"{self.path}: {PICKLED}")
            if any(size < 0 for size in header.shape) or math.prod(header.shape) * header.dtype.itemsize > left:
                raise DataError(
                    f"{self.path}: has shape {shortened(header.shape)} of {shortened(header.dtype)}; the file holds "
                    f"{left} bytes of values; save or copy it again"
                )
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)

    @contextmanager
    def values(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of an array's values, as a stream.

        Raises:
            DataError: damaged, or there is none of that name; so is what zipfile raises in the block.
        """
        with self.reading(), zipfile.ZipFile(self.path) as archive, archive.open(f"{name}{SUFFIX}") as stream:
            _header(stream)
            yield stream

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What zipfile, zlib and numpy raise on a bad file, as a DataError."""
        try:
            yield
        except (DataError, MemoryError):
            raise
        except KeyError as error:
            raise DataError(f"{self.path}: lacks the array {shortened(error)}; give a file that has it") from None
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{self.path}: cannot be read ({reason}); check space and permissions") from None
        except Exception as error:  # hostile headers make zipfile, zlib and numpy raise many types
            if "pickle" in str(error).lower():
                raise DataError(f"{self.path}: {PICKLED}") from None
            reason = shortened(" ".join(str(error).split()) or type(error).__name__, 160)
            kind = SUFFIX if self.path.suffix.lower() == SUFFIX else ".npz"
            raise DataError(f"{self.path}: not a readable {kind} file ({reason}); save or copy it again") from None


def _header(stream: IO[bytes]) -> ArrayHeader:
    """What stands at the beginning of an `.npy`.

    Raises:
        ValueError: nothing of the kind.
    """
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return ArrayHeader(*read(stream))


def _checked(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    name = shortened(info.filename[: -len(SUFFIX)])
    with archive.open(info) as stream:
        header = _header(stream)
        start = stream.tell()
    shape, _, dtype = header
    if dtype.hasobject:
        raise DataError(f"{path}: array {name} {PICKLED}")
    claimed = math.prod(shape) * dtype.itemsize
    if any(size < 0 for size in shape) or claimed > info.file_size - start:
        raise DataError(
            f"{path}: array {name} has shape {shortened(shape)} of {shortened(dtype)}, {shortened(claimed)} bytes; the "
            f"file holds {max(0, info.file_size - start)} of them; save or copy it again"
        )
    if info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * max(1, info.compress_size):
        raise DataError(
            f"{path}: array {name} unpacks to {info.file_size:,} bytes from {info.compress_size:,} (a bomb?); "
            "save it uncompressed (numpy.savez)"
        )
    return header

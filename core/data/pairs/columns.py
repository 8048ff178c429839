"""Columns of texts as Arrow arrays, without a Python object per row. Texts are bytes in them: Arrow's strings must be
valid UTF-8, and names of files need not be.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ENCODING = ("utf-8", "surrogatepass")  # any Python text comes back as it was, file names of odd bytes too


class _Rows:
    """Where each row ends among the values of all."""

    def __init__(self, code: str) -> None:
        self._ends = array(code, [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def pad(self, rows: int) -> None:
        """Empty rows up to `rows`."""
        self._ends.extend([self._ends[-1]] * (rows - len(self)))


class TextColumn(_Rows):
    """Grows a `pyarrow.LargeBinaryArray` of N texts."""

    def __init__(self) -> None:
        super().__init__("q")
        self._bytes = bytearray()

    def add(self, text: str) -> None:
        self._bytes += text.encode(*ENCODING)
        self._ends.append(len(self._bytes))

    def build(self, rows: int = 0) -> pa.LargeBinaryArray:
        """With empty rows up to `rows`; afterwards nothing can be added."""
        self.pad(rows)
        return pa.Array.from_buffers(
            pa.large_binary(), len(self), [None, pa.py_buffer(self._ends), pa.py_buffer(self._bytes)]
        )


class TextsColumn(_Rows):
    """Grows a `pyarrow.ListArray` of N rows of any number of texts."""

    def __init__(self) -> None:
        super().__init__("i")
        self._values = TextColumn()

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._values.add(text)
        self._ends.append(len(self._values))

    def build(self, rows: int = 0) -> pa.ListArray:
        """With empty rows up to `rows`; afterwards nothing can be added."""
        self.pad(rows)
        return pa.ListArray.from_arrays(np.frombuffer(self._ends, np.int32), self._values.build())


class NumbersColumn(_Rows):
    """Grows a `pyarrow.ListArray` of N rows of n numbers, or of none."""

    def __init__(self) -> None:
        super().__init__("i")
        self._values, self.width = array("d"), 0

    def fits(self, numbers: tuple[float, ...]) -> bool:
        """Whether a row may have so many."""
        return self.width in (0, len(numbers))

    def add(self, numbers: tuple[float, ...]) -> None:
        self.width = len(numbers)
        self._values.extend(numbers)
        self._ends.append(len(self._values))

    def build(self, rows: int = 0) -> pa.ListArray:
        """With empty rows up to `rows`; afterwards nothing can be added."""
        self.pad(rows)
        return pa.ListArray.from_arrays(np.frombuffer(self._ends, np.int32), np.frombuffer(self._values))


def text_column(texts: Iterable[str]) -> pa.LargeBinaryArray:
    """A column of texts that are at hand."""
    return pa.array([text.encode(*ENCODING) for text in texts], pa.large_binary())


def text_at(column: pa.LargeBinaryArray, row: int) -> str:
    """The text of a row."""
    return column[row].as_py().decode(*ENCODING)


def texts_at(column: pa.ListArray, row: int) -> tuple[str, ...]:
    """The texts of a row."""
    return tuple(text.decode(*ENCODING) for text in column[row].as_py())


def lengths(column: pa.Array) -> np.ndarray:
    """(N,) the bytes of each text, or how many texts or numbers each row has."""
    counted = pc.list_value_length if pa.types.is_list(column.type) else pc.binary_length
    return counted(column).to_numpy(zero_copy_only=False)


def lists_of(counts: np.ndarray, values: pa.Array) -> pa.ListArray:
    """Rows of (N,) so many values each, one row after the other."""
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), values)


def list_numbers(column: pa.ListArray) -> np.ndarray:
    """(N, n) float64; a row that has none is NaN."""
    counts = lengths(column)
    whole = np.full((len(column), counts.max(initial=0)), np.nan)
    whole[counts > 0] = column.flatten().to_numpy().reshape(-1, whole.shape[1] or 1)
    return whole

"""Columns of texts without a Python object per row: bytes in one block, and numbers that say where each text lies."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SMALL = np.iinfo(np.uint32).max
ENCODING = ("utf-8", "surrogatepass")  # any Python text comes back as it was, file names of odd bytes too


@dataclass(frozen=True)
class Strings:
    """N texts.

    Args:
        blob: all their bytes, uint8.
        starts: (N,) where each begins; uint32 while that is enough.
        lengths: (N,) bytes of each, uint32.
    """

    blob: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> str:
        start = int(self.starts[row])
        return self.blob[start : start + int(self.lengths[row])].tobytes().decode(*ENCODING)

    def take(self, rows: np.ndarray) -> Strings:
        """Texts of some rows, in their order; the bytes are shared, not copied."""
        return Strings(self.blob, self.starts[rows], self.lengths[rows])

    def packed(self) -> Strings:
        """The same with a block of bytes of its own, in which nothing else is."""
        lengths = self.lengths.astype(np.int64)
        begins = np.cumsum(lengths) - lengths
        places = np.repeat(self.starts.astype(np.int64) - begins, lengths) + np.arange(lengths.sum())
        return Strings(self.blob[places], narrow(begins), self.lengths)


@dataclass(frozen=True)
class Ragged:
    """N rows of any number of texts.

    Args:
        strings: the texts of all rows, one row after the other.
        first: (N + 1,) where each row's begin in `strings`; the last is their number.
    """

    strings: Strings
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, row: int) -> tuple[str, ...]:
        return tuple(self.strings[place] for place in range(int(self.first[row]), int(self.first[row + 1])))

    @property
    def counts(self) -> np.ndarray:
        """(N,) texts of each row."""
        return np.diff(self.first.astype(np.int64))

    def take(self, rows: np.ndarray) -> Ragged:
        """Some rows, in their order; the bytes are shared, not copied."""
        counts = self.counts[rows]
        begins = np.cumsum(counts) - counts
        places = np.repeat(self.first[rows].astype(np.int64) - begins, counts) + np.arange(counts.sum())
        return Ragged(self.strings.take(places), firsts(counts))


class StringsBuilder:
    """Grows a `Strings`."""

    def __init__(self) -> None:
        self._blob, self._starts, self._lengths = bytearray(), array("q"), array("I")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, text: str) -> None:
        encoded = text.encode(*ENCODING)
        self._starts.append(len(self._blob))
        self._lengths.append(len(encoded))
        self._blob += encoded

    def pad(self, rows: int) -> None:
        """Empty texts up to `rows`."""
        for _ in range(rows - len(self)):
            self.add("")

    def build(self, rows: int = 0) -> Strings:
        """With empty texts up to `rows`."""
        self.pad(rows)
        starts = narrow(np.frombuffer(self._starts, dtype=np.int64))
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        return Strings(np.frombuffer(self._blob, dtype=np.uint8), starts, lengths)


class RaggedBuilder:
    """Grows a `Ragged`."""

    def __init__(self) -> None:
        self._strings, self._counts = StringsBuilder(), array("I")

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def texts(self) -> int:
        return len(self._strings)

    def add(self, texts: Iterable[str]) -> None:
        before = len(self._strings)
        for text in texts:
            self._strings.add(text)
        self._counts.append(len(self._strings) - before)

    def pad(self, rows: int) -> None:
        """Empty rows up to `rows`."""
        self._counts.extend([0] * (rows - len(self._counts)))

    def build(self, rows: int = 0) -> Ragged:
        """With empty rows up to `rows`."""
        self.pad(rows)
        return Ragged(self._strings.build(), firsts(np.frombuffer(self._counts, dtype=np.uint32)))


class NumbersBuilder:
    """Grows (N, n) numbers; a row that has none is NaN."""

    def __init__(self) -> None:
        self._rows, self._values, self.width = array("q"), array("d"), 0

    def fits(self, numbers: tuple[float, ...]) -> bool:
        """Whether a row may have so many."""
        return self.width in (0, len(numbers))

    def add(self, row: int, numbers: tuple[float, ...]) -> None:
        self.width = len(numbers)
        self._rows.append(row)
        self._values.extend(numbers)

    def build(self, rows: int) -> np.ndarray:
        """(rows, n) float64."""
        whole = np.full((rows, self.width), np.nan)
        if self.width:
            whole[np.frombuffer(self._rows, np.int64)] = np.frombuffer(self._values).reshape(-1, self.width)
        return whole


def strings_of(texts: Iterable[str]) -> Strings:
    """A `Strings` of texts that are at hand."""
    builder = StringsBuilder()
    for text in texts:
        builder.add(text)
    return builder.build()


def firsts(counts: np.ndarray) -> np.ndarray:
    """(N + 1,) where each row begins, from (N,) how many each has."""
    first = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=first[1:])
    return narrow(first)


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Ascending numbers of 0 and more as uint32, if they fit."""
    return numbers.astype(np.uint32) if not len(numbers) or numbers[-1] <= SMALL else numbers

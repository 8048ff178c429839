"""Image-text pairs of any number: columns of numbers and one block of text, nothing decoded before it is asked for."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa

from ...contracts.items import Decoded, Item
from ...errors import DataError, printable
from ..class_folders import Layout
from ..file_hashes import FileHashes
from ..files import visible
from ..images import decode_bytes, decode_image, read_span
from ..links import stays_inside
from .columns import lengths, text_at, texts_at

TEXT_FIELDS = ("synthetic", "negative", "short")
MOST = 0.95
"""Share of rows that must have a field for the set to have it."""
SPLIT_CODES = {"": 0, **{name: code for code, name in enumerate(Item.SPLITS, start=1)}}
SPLIT_NAMES = tuple(SPLIT_CODES)


class PairImages(Protocol):
    """How a PairSet gets at an image. Must be picklable, for the workers of a DataLoader."""

    def read(self, source: str, offset: int | None, size: int | None) -> bytes:
        """The encoded image."""

    def decode(self, source: str, offset: int | None, size: int | None) -> Decoded:
        """Its pixels, (H, W, 3)."""


@dataclass(frozen=True)
class StoredImages:
    """Images in files: whole ones, or parts of a tar file. Nothing stays open, so that workers may be forked.

    Args:
        max_pixels: a larger image is refused.
    """

    max_pixels: int = Item.MAX_PIXELS

    def read(self, source: str, offset: int | None, size: int | None) -> bytes:
        return read_span(source, offset, size)

    def decode(self, source: str, offset: int | None, size: int | None) -> Decoded:
        if offset is None:
            return decode_image(Path(source), {"max_pixels": self.max_pixels})
        content = self.read(source, offset, size)
        return decode_bytes(content, f"{source} at byte {offset}", {"max_pixels": self.max_pixels})


@dataclass(frozen=True)
class Pair:
    """One image and what is said about it, not yet decoded.

    Args:
        id: unique within the set.
        source: the file its bytes come from.
        offset: where they begin in a tar file; None for a file of its own.
        size: how many they are, with `offset`.
        captions: one text or more, the original first.
        texts: further texts by field: "synthetic" (captions and rewrites by a model), "negative" (captions that are
            wrong by a detail), "short" (short captions beside long ones), and by further columns.
        negative_image: file of an image that is wrong by a detail, or None.
        label: index into the set's `class_names`, or None.
        split: "train", "val", "test" or "".
        image: which of the set's distinct images it is.
        group: what is the same for images that belong together (of one patient), or None.
    """

    id: str
    source: str
    offset: int | None
    size: int | None
    captions: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negative_image: str | None = None
    label: int | None = None
    split: str = ""
    image: int = 0
    group: str | None = None


@dataclass(frozen=True)
class PairColumns:
    """The rows as columns, N each.

    Args:
        base: folder that file names are relative to.
        files: names of files, each once.
        captions: one or more per row.
        labels: int32 indices of classes, -1 for none.
        file_of: which of `files` a row's image is in; None where row i is in file i.
        ids: names within their files, for images in tar files; None where the file's name is the id.
        offsets: byte of a tar file where the image begins, int64; None for files of their own.
        sizes: bytes of it, int64, with `offsets`.
        texts: field -> none or more per row.
        negative_images: names of files, "" for none.
        numbers: further column -> (N, n) float64, NaN in rows that have none.
        images: further column -> names of files, "" for none.
        groups: (N,) uint64, equal for images that must not be divided (of one patient), 0 for none; None without any.
        weights: (N,) float32, how often a row should be seen in an epoch, on average; None for once each.
    """

    base: str
    files: pa.LargeBinaryArray
    captions: pa.ListArray
    labels: np.ndarray
    file_of: np.ndarray | None = None
    ids: pa.LargeBinaryArray | None = None
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    texts: Mapping[str, pa.ListArray] = field(default_factory=dict)
    negative_images: pa.LargeBinaryArray | None = None
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: Mapping[str, pa.LargeBinaryArray] = field(default_factory=dict)
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.captions)


@dataclass(frozen=True)
class PairSet:
    """N image-text pairs, one row per image with all that is said about it.

    Made by `read_pairs` and `sample_pairs`. Parts of it (`split`, `select`) share its columns.

    Class attributes:
        TABLES, JSON_NAMES: endings and patterns of files that hold captions.
        FILES: patterns of files in a folder that hold captions, or name their images.

    Args:
        columns: of all rows as read.
        rows: (N,) which rows of `columns` these are.
        split_codes: (N,) uint8, positions in `SPLIT_NAMES`.
        class_names: what `Pair.label` indexes.
        images: how pixels are got.
        name: what the set is called in reports.
        licence: of the data, where known.
        skipped: (file or line, reason) of everything left out while reading.
        notes: sentences for the user.
        total: images looked at while reading, skipped ones included.
    """

    TABLES: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".jsonl", ".ndjson")
    JSON_NAMES: ClassVar[tuple[str, ...]] = (
        *("captions*.json", "annotations/captions*.json", "dataset*.json", "*_captions.json", "reid_raw.json"),
        *("ICFG*.json", "caption_all.json"),
    )
    FILES: ClassVar[tuple[str, ...]] = (*JSON_NAMES, *map("*{}".format, (*TABLES, ".tar")))

    columns: PairColumns
    rows: np.ndarray
    split_codes: np.ndarray
    class_names: tuple[str, ...] = ()
    images: PairImages = field(default_factory=StoredImages)
    name: str = ""
    licence: str = "unknown"
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    total: int = 0

    @staticmethod
    def shards_in(folder: Path) -> list[Path]:
        """The .tar files of a folder and of its folders train, val and test; no links that leave it."""
        inner = [folder, *(folder / e.name for e in visible(folder) if e.is_dir() and e.name.lower() in Layout.SPLITS)]
        entries = [Path(entry.path) for place in inner for entry in visible(place)]
        return sorted(path for path in entries if path.suffix.lower() == ".tar" and stays_inside(path, folder))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        row, (source, offset, size) = self._row(index), self._place(index)
        columns = self.columns
        label = int(columns.labels[row])
        texts = {name: text for name, column in columns.texts.items() if (text := texts_at(column, row))}
        return Pair(
            id=self.id(index),
            source=source,
            offset=offset,
            size=size,
            captions=texts_at(columns.captions, row),
            texts=texts,
            negative_image=self._named(columns.negative_images, row),
            label=None if label < 0 else label,
            split=SPLIT_NAMES[self.split_codes[index]],
            image=int(self.image_numbers[index]),
            group=str(columns.groups[row]) if columns.groups is not None and columns.groups[row] else None,
        )

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def id(self, index: int) -> str:
        """The id of a row alone: "FILE", or "FILE:NAME" in a tar file; printable, whatever bytes are in the names."""
        row, columns = self._row(index), self.columns
        name = text_at(columns.files, self._file(row))
        return printable(name if columns.ids is None else f"{name}:{text_at(columns.ids, row)}")

    # pixels ----------------------------------------------------------------------------------------------------------

    def load_image(self, index: int) -> Decoded:
        """The pixels of one image, (H, W, 3); uint8, or float32 in 0..1 where the source is deeper than 8 bits.

        Raises:
            DataError: it cannot be read or decoded, or is too large.
        """
        return self.images.decode(*self._place(index))

    def load_negative_image(self, index: int) -> Decoded:
        """The pixels of its hard negative image.

        Raises:
            DataError: it has none, or it cannot be decoded.
        """
        return self._load_named(index, self.columns.negative_images, "negative image")

    def load_column_image(self, index: int, column: str) -> Decoded:
        """The pixels of the file that a further column names.

        Raises:
            DataError: the row names none, or it cannot be decoded.
        """
        return self._load_named(index, self.columns.images.get(column), column)

    def numbers(self, index: int, column: str) -> np.ndarray:
        """(n,) what a further column holds, NaN where the row has no numbers."""
        return self.columns.numbers[column][self._row(index)]

    def image_bytes(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            DataError: it cannot be read.
        """
        return self.images.read(*self._place(index))

    @property
    def comparable(self) -> bool:
        """Whether copies of images can be told: they lie in files here."""
        return isinstance(self.images, StoredImages)

    def image_sizes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64, bytes of the encoded images of some rows, 0 where a file is gone.

        Needs no reading; equal images have equal sizes.
        """
        if self.columns.sizes is not None:
            return self.columns.sizes[self.rows[rows]]
        return np.fromiter((_file_size(self._place(row)[0]) for row in rows.tolist()), np.int64, len(rows))

    def image_end(self, index: int, most: int) -> bytes:
        """The last bytes of the encoded image, at most so many.

        Raises:
            DataError: it cannot be read.
        """
        source, offset, size = self._place(index)
        size = _file_size(source) if size is None else size
        length = min(size, most)
        return self.images.read(source, (offset or 0) + size - length, length)

    def content_hash(self, index: int, hashes: FileHashes) -> str:
        """Hex sha256 of the encoded image; that of a whole file is remembered.

        Raises:
            DataError: it cannot be read.
        """
        source, offset, _ = self._place(index)
        if offset is None and isinstance(self.images, StoredImages):
            return hashes.sha256(source)
        return hashlib.sha256(self.image_bytes(index)).hexdigest()

    # parts -----------------------------------------------------------------------------------------------------------

    def split(self, name: str) -> PairSet:
        """The rows of "train", "val", "test" or ""."""
        return self.select(np.flatnonzero(self.split_codes == SPLIT_CODES[name]))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, val and test that have rows."""
        present = set(np.unique(self.split_codes).tolist())
        return tuple(name for name in Item.SPLITS if SPLIT_CODES[name] in present)

    def select(self, indices: Sequence[int] | np.ndarray) -> PairSet:
        """The rows at some indices, in their order; one may come more than once.

        Raises:
            IndexError: there is no such row.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise IndexError(f"rows {chosen.min()} to {chosen.max()} of a set of {len(self)}")
        return replace(self, rows=self.rows[chosen], split_codes=self.split_codes[chosen])

    def with_split(self, assignments: Sequence[str] | np.ndarray) -> PairSet:
        """The same rows in other splits.

        Args:
            assignments: N names of splits, "" for none.
        """
        codes = np.fromiter((SPLIT_CODES[name] for name in assignments), np.uint8)
        if len(codes) != len(self):
            raise ValueError(f"{len(codes)} splits for {len(self)} pairs")
        return self.with_split_codes(codes)

    def with_split_codes(self, codes: np.ndarray, notes: Sequence[str] = ()) -> PairSet:
        """The same rows in other splits, given as (N,) uint8 positions in `SPLIT_NAMES`, and further notes."""
        return replace(self, split_codes=codes, notes=[*self.notes, *notes])

    # what rows have --------------------------------------------------------------------------------------------------

    @cached_property
    def field_counts(self) -> dict[str, int]:
        """Rows that have each of the fields, those that no row has left out."""
        columns = self.columns
        has = {name: lengths(column) > 0 for name, column in columns.texts.items()}
        has["several_captions"] = lengths(columns.captions) > 1
        has["label"] = columns.labels >= 0
        if columns.negative_images is not None:
            has["negative_image"] = lengths(columns.negative_images) > 0
        has |= {name: ~np.isnan(values).any(axis=1) for name, values in columns.numbers.items()}
        has |= {name: lengths(files) > 0 for name, files in columns.images.items()}
        counts = {name: int(np.count_nonzero(rows[self.rows])) for name, rows in has.items()}
        return {name: count for name, count in counts.items() if count}

    @property
    def caption_count(self) -> int:
        """Captions of all rows."""
        return int(lengths(self.columns.captions)[self.rows].sum())

    @property
    def fields(self) -> frozenset[str]:
        """Of "synthetic", "negative", "short", "negative_image", "label", "several_captions" and further columns those
        that 95 % of the rows have, or all of them. Of numbers some rows will do."""
        enough = MOST * len(self)
        counts = self.field_counts.items()
        return frozenset(name for name, count in counts if count >= enough or name in self.columns.numbers)

    @property
    def further_columns(self) -> dict[str, str]:
        """Of the fields those of further columns -> what they hold: "text", "numbers" or "image"."""
        kinds = {name: "text" for name in self.columns.texts if name not in TEXT_FIELDS}
        kinds |= dict.fromkeys(self.columns.numbers, "numbers") | dict.fromkeys(self.columns.images, "image")
        return {name: kind for name, kind in kinds.items() if name in self.fields}

    @property
    def labels(self) -> np.ndarray:
        """(N,) class indices, -1 for none."""
        return self.columns.labels[self.rows]

    @property
    def weights(self) -> np.ndarray | None:
        """(N,) float32, how often each row should be seen in an epoch, on average; None for once each."""
        return None if self.columns.weights is None else self.columns.weights[self.rows]

    @cached_property
    def image_numbers(self) -> np.ndarray:
        """(N,) which of the set's distinct images each row has."""
        return np.unique(self.rows, return_inverse=True)[1].reshape(-1)

    # ------------------------------------------------------------------------------------------------------------------

    def _row(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of a set of {len(self)}")
        return int(self.rows[index])

    def _file(self, row: int) -> int:
        return row if self.columns.file_of is None else int(self.columns.file_of[row])

    def _place(self, index: int) -> tuple[str, int | None, int | None]:
        """(file, offset, size) of an image."""
        row, columns = self._row(index), self.columns
        source = os.path.join(columns.base, text_at(columns.files, self._file(row)))
        if columns.offsets is None or columns.sizes is None:
            return source, None, None
        return source, int(columns.offsets[row]), int(columns.sizes[row])

    def _named(self, column: pa.LargeBinaryArray | None, row: int) -> str | None:
        """The file that a row of a column names."""
        name = "" if column is None else text_at(column, row)
        return os.path.join(self.columns.base, name) if name else None

    def _load_named(self, index: int, column: pa.LargeBinaryArray | None, what: str) -> Decoded:
        source = self._named(column, self._row(index))
        if source is None:
            raise DataError(f"{self.id(index)}: has no {what}; add one, or train without a loss that needs it")
        return self.images.decode(source, None, None)


def _file_size(path: str) -> int:
    """Bytes of a regular file, 0 where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0

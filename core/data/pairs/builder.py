"""Rows of image-text pairs gathered into columns; rows of one image become one row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from .columns import NumbersColumn, TextColumn, TextsColumn, lengths, list_numbers, lists_of
from .pair_set import SPLIT_CODES, PairColumns, PairImages, PairSet, StoredImages
from .record_fields import BrokenRow


class PairBuilder:
    """Takes rows in the order of a list and makes a PairSet of them, without keeping a Python object per row.

    Args:
        base: folder that file names are relative to.
        listed_in: the file that lists the rows, for messages.
        unit: what the place of a row counts: "line", "image".
    """

    def __init__(self, base: str | Path, listed_in: str | Path, unit: str = "line"):
        self.base, self.listed_in, self._unit = str(base), Path(listed_in), unit
        self.skipped: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._names, self._captions, self._negatives = TextColumn(), TextsColumn(), TextColumn()
        self._texts: dict[str, TextsColumn] = {}
        self._numbers: dict[str, NumbersColumn] = {}
        self._images: dict[str, TextColumn] = {}
        self._labels, self._splits, self._places = array("i"), bytearray(), array("Q")
        self._groups = array("Q")
        self._label_numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def add(
        self,
        name: str,
        captions: Iterable[str],
        *,
        texts: Mapping[str, Iterable[str]] | None = None,
        negative_image: str = "",
        label: str = "",
        split: str = "",
        place: int = 0,
        numbers: Mapping[str, tuple[float, ...]] | None = None,
        images: Mapping[str, str] | None = None,
        group: int = 0,
    ) -> None:
        """One row.

        Args:
            name: the image's file, relative to the base; rows with the same name are joined.
            captions: one or more.
            texts: field of `TEXT_FIELDS`, or further column -> texts.
            negative_image: file of an image, relative to the base, or "".
            label: name of its class, or "".
            split: "train", "val", "test" or "".
            place: number of its line, for messages.
            numbers: further column -> numbers, as many in each row.
            images: further column -> file of an image, relative to the base.
            group: number of the patient or whatever else must not be divided, 0 for none.

        Raises:
            BrokenRow: more or fewer numbers than the rows before have.
        """
        for column, values in (numbers or {}).items():
            grown = self._numbers.get(column)
            if grown is not None and not grown.fits(values):
                raise BrokenRow(f"{column} has {len(values)} numbers, rows before it {grown.width}")
        for column, values in (numbers or {}).items():
            grown = self._numbers.setdefault(column, NumbersColumn())
            grown.pad(len(self))
            grown.add(values)
        for column, file in (images or {}).items():
            files = self._images.setdefault(column, TextColumn())
            files.pad(len(self))
            files.add(file)
        for field, more in (texts or {}).items():
            column = self._texts.setdefault(field, TextsColumn())
            column.pad(len(self))
            column.add(more)
        self._names.add(name)
        self._captions.add(captions)
        self._negatives.add(negative_image)
        self._labels.append(self._label_numbers.setdefault(label, len(self._label_numbers)) if label else -1)
        self._splits.append(SPLIT_CODES[split])
        self._places.append(place)
        self._groups.append(group)

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((name, reason))

    def build(self, *, name: str, licence: str = "unknown", images: PairImages | None = None) -> PairSet:
        """The set of all rows added.

        Raises:
            DataError: there is none.
        """
        if not len(self):
            raise DataError(nothing_left(self.listed_in, self.skipped))
        class_names, labels = sorted_labels(list(self._label_numbers), np.frombuffer(self._labels, np.int32))
        columns, splits = self._joined(labels)
        pairs = PairSet(
            columns=columns,
            rows=np.arange(len(columns)),
            split_codes=splits,
            class_names=class_names,
            images=images or StoredImages(),
            name=name,
            licence=licence,
            skipped=self.skipped,
            total=len(columns) + len(self.skipped),
        )
        pairs.notes.extend([*self.notes, *field_notes(pairs)])
        return pairs

    def _joined(self, labels: np.ndarray) -> tuple[PairColumns, np.ndarray]:
        """Columns with one row per image, and its split. A row that contradicts an earlier one is skipped."""
        splits = np.frombuffer(self._splits, np.uint8)
        names, captions, negatives = self._names.build(), self._captions.build(), self._negatives.build()
        texts = {field: column.build(len(self)) for field, column in self._texts.items()}
        numbers = {name: list_numbers(column.build(len(self))) for name, column in self._numbers.items()}
        images = {name: column.build(len(self)) for name, column in self._images.items()}
        groups = np.frombuffer(self._groups, np.uint64)
        leaders = leaders_of(names)
        if leaders is not None:
            agreed_labels = first_given(labels, labels >= 0, leaders)
            agreed_splits = first_given(splits, splits > 0, leaders)
            against = (labels >= 0) & (labels != agreed_labels)
            self._skip_contradicting(against, leaders, "a class")
            against_split = (splits > 0) & (splits != agreed_splits) & ~against
            self._skip_contradicting(against_split, leaders, "a split")
            kept = np.flatnonzero(~(against | against_split))
            firsts = np.flatnonzero(leaders == np.arange(len(leaders)))

            def first_with(has: np.ndarray) -> np.ndarray:
                """For each image the first of its rows that has something, else its first."""
                return first_given(np.arange(len(leaders)), has, leaders)[firsts]

            negatives = negatives.take(first_with(lengths(negatives) > 0))
            numbers = {name: rows[first_with(~np.isnan(rows).any(axis=1))] for name, rows in numbers.items()}
            images = {name: files.take(first_with(lengths(files) > 0)) for name, files in images.items()}
            groups = groups[first_with(groups > 0)]
            names, captions = names.take(firsts), regrouped(captions, leaders, kept)
            texts = {field: regrouped(column, leaders, kept) for field, column in texts.items()}
            labels, splits = agreed_labels[firsts], agreed_splits[firsts]
        columns = PairColumns(
            base=self.base,
            files=names,
            captions=captions,
            labels=labels,
            texts=texts,
            negative_images=negatives if lengths(negatives).any() else None,
            numbers=numbers,
            images=images,
            groups=groups if groups.any() else None,
        )
        return columns, splits

    def _skip_contradicting(self, rows: np.ndarray, leaders: np.ndarray, what: str) -> None:
        for row in np.flatnonzero(rows):
            first = self._places[int(leaders[row])]
            reason = f"gives its image {what} that differs from {self._unit} {first}"
            self.skip(f"{self.listed_in.name} {self._unit} {self._places[int(row)]}", reason)


def sorted_labels(names: list[str], labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in order, numbers as numbers, and labels (N,) int32 that index them; -1 stays."""
    order = sorted(range(len(names)), key=lambda number: natural(names[number]))
    position = np.full(len(names) + 1, -1, np.int32)  # the last is that of -1
    position[order] = np.arange(len(names))
    return tuple(names[number] for number in order), position[labels]


def natural(name: str) -> tuple[int, int, str]:
    """Sorting key: whole numbers by value, before all other names."""
    number = name.isascii() and name.isdigit() and len(name) < 1000  # Python refuses to parse the longest
    return (0, int(name), name) if number else (1, 0, name)


def nothing_left(listed_in: str | Path, skipped: list[tuple[str, str]]) -> str:
    """The message of a set without a single usable pair."""
    if not skipped:
        return f"{listed_in}: holds no image-text pair; give an image and a caption per row"
    name, reason = skipped[0]
    return f"{listed_in}: none of its {len(skipped)} rows can be used; the first is {name} ({reason}); correct them"


def field_notes(pairs: PairSet) -> list[str]:
    """Sentences about fields that only some of the rows have."""
    notes = []
    for field, count in sorted(pairs.field_counts.items()):
        if field == "several_captions" or count == len(pairs):
            continue
        rest = len(pairs) - count
        verdict = "used where it is" if field in pairs.fields else "too few for losses that need it"
        notes.append(f"'{field}' is missing from {rest} of {len(pairs)} images: {verdict}.")
    return notes


def leaders_of(names: pa.LargeBinaryArray) -> np.ndarray | None:
    """(N,) for each row the first row of the same image; None if no two rows share one."""
    coded = pc.dictionary_encode(names, memory_pool=pa.system_memory_pool())  # Arrow's own would keep what it frees
    if len(coded.dictionary) == len(names):
        return None
    numbers = coded.indices.to_numpy()
    return np.unique(numbers, return_index=True)[1][numbers]


def first_given(values: np.ndarray, given: np.ndarray, leaders: np.ndarray) -> np.ndarray:
    """(N,) the first value that an image's rows give, at each of them; where none gives one, the first row's own."""
    agreed = values.copy()
    rows = np.flatnonzero(given)
    images, where = np.unique(leaders[rows], return_index=True)  # the first of each
    agreed[images] = values[rows[where]]
    return agreed[leaders]


def regrouped(column: pa.ListArray, leaders: np.ndarray, kept: np.ndarray) -> pa.ListArray:
    """The column with one row per image, in order of first rows, each with the texts of its rows.

    Args:
        column: N rows.
        leaders: (N,) from `leaders_of`.
        kept: rows whose texts count, ascending; the first row of every image is among them.
    """
    order = kept[np.argsort(leaders[kept], kind="stable")]
    begins = np.flatnonzero(np.diff(leaders[order], prepend=-1))
    return lists_of(np.add.reduceat(lengths(column)[order], begins), column.take(order).flatten())

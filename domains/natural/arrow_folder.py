"""Folders of Hugging Face `datasets` on disk: Arrow files of `save_to_disk`, Parquet files of a repository.

Only pyarrow reads them; no code of a data set runs. Arrow
files are mapped; of a few Parquet files a group of rows each is in memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, DomainData, Item, Label, check_items
from ...core.data import IMAGE, ItemCollector, Layout, folders, shown, stays_inside
from ...core.errors import DataError, UnknownNameError, did_you_mean, shortened
from ...core.runtime import check_regular, json_values, version_of

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "class", "fine_label", "category")
SUFFIXES = (".arrow", ".parquet")
UNLABELLED = -1
"""A class that is not told, as of hidden test splits."""
CACHES = ("cache-", "tmp")
"""How names of files begin that `datasets` keeps beside its own."""
BATCH = 64
OPENED = 4
"""Files that stay open, of each Parquet file with a group of rows."""


def is_arrow_folder(path: Path) -> bool:
    """Whether a folder holds Arrow or Parquet files, as `datasets` writes them."""
    return path.is_dir() and bool(_files(path))


def read_arrow_folder(
    path: Path, label_column: str | None = None, class_names: tuple[str, ...] | None = None, max_pixels: int = 0
) -> DomainData:
    """A labelled set of such a folder; splits are those of its folders or file names.

    Args:
        path: the folder, or one with the folder of a single configuration (`plain_text/train-00000-of-00001.parquet`).
        label_column: the column of the label; by default the first of type ClassLabel, or of a usual name.
        class_names: the classes in order, where the files do not name them.
        max_pixels: a larger image is refused; 0 for the usual limit.

    Raises:
        DataError: a damaged file, no column of images or of labels, labels that are no classes, or several
            configurations.
        UnknownNameError: no column of the given name.
    """
    rows, names, skipped = [], _Names(class_names), []
    for split, file in _files(path):
        opened = _opened(file, version_of(file.stat()), label_column)
        names.take(opened.class_names, file)
        for number, (image, label) in enumerate(opened.rows()):
            id_, content = f"{shown(file, path)}#{number}", _content(image, file)
            if content is None or label is None or label == UNLABELLED:
                skipped.append((id_, "has no label" if content is not None else "has no image"))
                continue
            names.see(label, file)
            decode = {"row": number, "column": opened.image, **content}
            rows.append((id_, file, {**decode, "max_pixels": max_pixels} if max_pixels else decode, label, split))
    index = names.by_label()
    items = [Item(id_, file, how, Label(index[label]), split=split) for id_, file, how, label, split in rows]
    data = ItemCollector(items, skipped).data_set(path, (), names.all, load=_load_row)
    return check_items(data, path)


def _load_row(item: Item) -> Decoded:
    """The decoded image of a row: from its bytes, or from the file beside that it names."""
    limit = {key: item.decode[key] for key in ("max_pixels",) if key in item.decode}
    if (beside := item.decode.get("beside")) is not None:
        return IMAGE.load(item.source.parent / beside, limit)
    file = item.source
    with _readable(file):
        image = _tabled(file, version_of(file.stat())).image_at(int(item.decode["row"]), str(item.decode["column"]))
    return IMAGE.from_bytes(image["bytes"] if isinstance(image, dict) else image, item.id, limit)


class _Names:
    """The classes of a set of files, in order: those that are given, that the files name, or all that occur, sorted."""

    def __init__(self, given: tuple[str, ...] | None):
        self.given, self.declared = given, given
        self.seen: set[Any] = set()

    def take(self, declared: tuple[str, ...] | None, file: Path) -> None:
        """The names that a file declares."""
        if declared is None or self.given is not None:
            return
        if self.declared not in (None, declared):
            raise DataError(f"{file}: names other classes than the files before it; give one set at a time")
        self.declared = declared

    def see(self, label: Any, file: Path) -> None:
        """A row's label."""
        if isinstance(label, bool) or not isinstance(label, (int, str)):
            raise DataError(f"{file}: label '{shortened(label)}' is no class; name another column (data.label_column)")
        if isinstance(label, int) and not 0 <= label < len(self.declared or ()):
            there = f"{len(self.declared)} names" if self.declared else "no names of classes; give data.class_names"
            raise DataError(f"{file}: label {label}, but there are {there}")
        if isinstance(label, str) and self.declared is not None and label not in self.declared:
            raise DataError(
                f"{file}: label '{shortened(label)}' is none of the classes; {did_you_mean(label, self.all)}"
            )
        self.seen.add(label)

    @property
    def all(self) -> tuple[str, ...]:
        return self.declared or tuple(sorted(self.seen))

    def by_label(self) -> dict[Any, int]:
        """Label, a text or a number -> index of its class."""
        return {**{name: index for index, name in enumerate(self.all)}, **{i: i for i in range(len(self.all))}}


@dataclass(frozen=True)
class _Opened:
    """One file: which columns hold what, its rows as a stream, and one image of it.

    Args:
        path: the file.
        image, label: names of columns.
        class_names: of the label, where the file names them.
        batches: columns -> record batches.
    """

    path: Path
    image: str
    label: str
    class_names: tuple[str, ...] | None
    batches: Callable[[list[str]], Iterator[Any]]

    def rows(self) -> Iterator[tuple[Any, Any]]:
        """(image, label) of each row; what a damaged file claims is checked before it is used."""
        with _readable(self.path):
            for batch in self.batches([self.image, self.label]):
                batch.validate(full=True)
                yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist())


@lru_cache(maxsize=OPENED)
def _opened(path: Path, version: tuple[int, ...], label_column: str | None) -> _Opened:
    with _readable(path):
        tabled = _tabled(path, version)
    schema = tabled.schema
    features = {name: each for name, each in _features(schema).items() if name in schema.names}
    kinds = {name: each.get("_type") for name, each in features.items() if isinstance(each, dict)}
    image = _column(path, schema.names, "image", _of_kind(kinds, "Image"), IMAGE_COLUMNS)
    label = _column(path, schema.names, "label", _of_kind(kinds, "ClassLabel"), LABEL_COLUMNS, label_column)
    declared = features[label].get("names") if kinds.get(label) == "ClassLabel" else None
    return _Opened(path, image, label, _checked_names(declared, path), tabled.batches)


@dataclass(frozen=True)
class _Tabled:
    """A file as a table: its schema, its rows as a stream, and (row, column) -> what stands there."""

    schema: Any
    batches: Callable[[list[str]], Iterator[Any]]
    image_at: Callable[[int, str], Any]


@lru_cache(maxsize=OPENED)
def _tabled(path: Path, version: tuple[int, ...]) -> _Tabled:
    check_regular(path)
    return (_parquet if path.suffix == ".parquet" else _arrow)(path)


def _arrow(path: Path) -> _Tabled:
    """An Arrow file, which is mapped and not read."""
    import pyarrow as pa

    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()

    def batches(columns: list[str]):
        return table.select(columns).to_batches(max_chunksize=BATCH)

    return _Tabled(table.schema, batches, lambda row, column: table.column(column)[row].as_py())


def _parquet(path: Path) -> _Tabled:
    """A Parquet file, of which a group of rows is in memory."""
    import pyarrow.parquet as pq

    file, reading = pq.ParquetFile(path, memory_map=True), threading.Lock()
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])

    @lru_cache(maxsize=1)
    def group_of(group: int, column: str):
        return file.read_row_group(group, columns=[column])

    def image_at(row: int, column: str) -> Any:
        group = int(np.searchsorted(ends, row, side="right"))
        with reading:
            return group_of(group, column).column(0)[row - (int(ends[group - 1]) if group else 0)].as_py()

    def batches(columns: list[str]):
        return file.iter_batches(batch_size=BATCH, columns=columns)

    return _Tabled(file.schema_arrow, batches, image_at)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """pyarrow's errors in one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, IndexError) as error:
        raise DataError(f"{path}: not a readable {path.suffix[1:]} file ({shortened(error)}); copy it again") from error


def _features(schema: Any) -> dict[str, Any]:
    """Column -> what `datasets` notes of it; nothing where the file was written by something else."""
    noted = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json_values(noted.decode("utf-8"))["info"]["features"] if noted else {}
    except (ValueError, KeyError, TypeError):
        features = {}
    return features if isinstance(features, dict) else {}


def _of_kind(kinds: dict[str, Any], kind: str) -> list[str]:
    return [name for name, each in kinds.items() if each == kind]


def _column(
    path: Path, names: Sequence[str], what: str, typed: Sequence[str], usual: Sequence[str], given: str | None = None
) -> str:
    """The column of that kind: the given one, the first of its type, or the first of a usual name."""
    if given is not None and given not in names:
        raise UnknownNameError(f"{path}: has no column '{given}' (data.{what}_column); {did_you_mean(given, names)}")
    found = [given] if given is not None else [*typed, *(name for name in usual if name in names)]
    if not found:
        raise DataError(f"{path}: has no column of the {what}; it has {shortened(', '.join(names))}")
    return found[0]


def _checked_names(names: Any, path: Path) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{path}: the names of its classes are not texts; save the data set again")
    return tuple(names)


def _content(image: Any, file: Path) -> dict[str, str] | None:
    """What tells an image from others: the hash of its bytes, or the name of the file beside that it lies in."""
    stored = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(stored, bytes) and stored:
        return {"digest": hashlib.sha256(stored).hexdigest()}
    beside = image.get("path") if isinstance(image, dict) else None
    if isinstance(beside, str) and stays_inside(file.parent / beside, file.parent) and (file.parent / beside).is_file():
        return {"beside": beside, "digest": hashlib.sha256((file.parent / beside).read_bytes()).hexdigest()}
    return None


def _files(path: Path) -> list[tuple[str, Path]]:
    """(split, file), sorted: of the folder, or of the one configuration in it."""
    if found := _files_of_one(path):
        return found
    configurations = {}
    for place in (path, path / "data"):
        for folder in folders(place) if place.is_dir() else ():
            files = _files_of_one(folder) if stays_inside(folder, path) and os.access(folder, os.R_OK | os.X_OK) else []
            if files and all(split for split, _ in files):  # else Arrow files among others, which are no data set
                configurations[shown(folder, path)] = files
    if len(configurations) > 1:
        raise DataError(f"{path}: holds the configurations {', '.join(configurations)}; give one of these folders")
    return next(iter(configurations.values()), [])


def _files_of_one(path: Path) -> list[tuple[str, Path]]:
    """(split, file), sorted: of the folder, of one folder called data, or of a folder per split."""
    found = []
    for folder in (path, path / "data", *(path / name for name in Layout.SPLITS)):
        if folder.is_dir():
            files = sorted(file for file in folder.iterdir() if _is_data(file))
            found += [(_split_of(file), file) for file in files]
    return found


def _is_data(file: Path) -> bool:
    return file.suffix in SUFFIXES and file.is_file() and not file.name.startswith(CACHES)


def _split_of(file: Path) -> str:
    """From the folder, or from the file's name: "train-00000-of-00003.parquet"."""
    named = Layout.SPLITS.get(file.parent.name.lower())
    return named or Layout.SPLITS.get(file.name.lower().partition("-")[0].partition(".")[0], "")

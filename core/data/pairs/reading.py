"""Image-text pairs of whatever kind lies at a path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...contracts.items import Item
from ...contracts.options import option, options_from, require, settle
from ...errors import ConfigError, DataError
from ...runtime.reading import check_regular, read_json
from ...runtime.remote import is_url, printed_name
from ..file_hashes import FileHashes
from ..files import visible
from ..group_columns import AUTO
from .coco_captions import (
    is_coco_captions,
    is_karpathy,
    is_person_search,
    read_coco_captions,
    read_karpathy,
    read_person_search,
)
from .multilingual import MultilingualSet, multilingual_set
from .pair_list import read_pair_list
from .pair_set import SPLIT_CODES, PairSet, StoredImages
from .pair_splits import assign_pair_splits
from .sample import sample_pairs
from .shard_list import ORDERS, holds_shards, reads_in_a_row
from .shards import BRACES, expanded_braces, read_shards
from .table_pairs import read_table_pairs
from .text_beside import holds_texts_beside, read_texts_beside

PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
WHAT_IS_READ = (
    "a table with an image and a caption column (.csv, .tsv, .jsonl), COCO captions*.json, Karpathy's dataset_*.json, "
    "a CUHK-PEDES-like .json, WebDataset .tar shards (a file, a folder, or shard-{000..012}.tar), "
    "a folder of images with a .txt next to each, XTD10, XM3600, xFlickr&CO or Multi30k, a LIST.parquet of "
    "`vladapt curate`, or 'sample'"
)
SAMPLE = "sample"
IN_A_ROW = frozenset({"val_samples", "test_samples", "val_shards", "test_shards", "block", "streams"})
"""Options of shards that are read in a row alone."""
READER = "the reader of pairs"
"""What options belong to, in messages."""


@dataclass(frozen=True, kw_only=True)
class PairReading:
    """Options of `read_pairs`, given as `data.NAME` in a recipe."""

    image_column: str | None = option(None, "tables: the column that names the image, where it is not found")
    caption_column: str | None = option(None, "tables: the column of the caption, where it is not found")
    group_column: str = option(
        AUTO, "tables: the column that says what belongs together; auto finds it; none for no groups"
    )
    root: str | None = option(None, "tables and annotation files: folder of the images", metavar="DIR")
    split: str | None = option(
        None, "only rows of this split; all rows where the data has no splits", choices=Item.SPLITS
    )
    language: str | None = option(
        None, "sets of several languages: whose captions are read; by default English, or the first"
    )
    rewrites: tuple[str, ...] = option((), "tables: text files with one rewritten caption per row, as of LaCLIP")
    seed: int = option(0, "seed of the division into splits, where the data has none", low=0, high=2**32 - 1)
    val: float = option(0.1, "share of the images held out to validate, where the data has no splits", low=0, below=1)
    test: float = option(0.1, "share of the images held out to test, where the data has no splits", low=0, below=1)

    order: str = option(
        "auto", "tar shards: global (by an index) or shards (in sequence); auto: by size and place", choices=ORDERS
    )
    val_samples: int = option(2000, "shards in sequence: how many samples validate", low=0, high=10**7)
    test_samples: int = option(2000, "shards in sequence: how many samples test", low=0, high=10**7)
    val_shards: str | None = option(None, "shards in sequence: those that validate, by name: val-*.tar, {000..001}.tar")
    test_shards: str | None = option(None, "shards in sequence: those that test, by name")
    block: int = option(
        1000, "shards in sequence: samples that each worker holds undecoded, and shuffles", low=1, high=10**7
    )
    streams: int | None = option(
        None, "shards in sequence: how many all processes read at once; by default one per worker", low=1, high=65_536
    )

    max_pixels: int = Item.max_pixels_option("most pixels of an image that is decoded")

    def __post_init__(self):
        settle(self)
        require(self.test < 1 - self.val, "test", self.test, "val and test together must be below 1")


def read_pairs(
    path: str | Path,
    *,
    hashes: FileHashes | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> PairSet:
    """The image-text pairs at `path`, one row per image with all its captions.

    A file is judged by suffix and content. In a folder the first of these counts: tar shards, an annotation file
    (COCO, Karpathy, CUHK-PEDES), a table if there is one only, images with texts next to them.

    Rows without a split are train where others have one; where none has, a share of the images is val and one is
    test, in person search of the persons (`assign_pair_splits`); exact copies of an image under other names are then in
    one split. Given splits are kept as they are (see `without_divided_copies`).

    Args:
        path: file, folder, name with braces, or "sample" for generated pairs.
        hashes: memory of file hashes, by which copies are told; its folder keeps the indices of shards. By default that
            of the cache.
        columns: columns of a table, or keys of the `.json` of shards, that are kept besides the usual ones where there
            are any, since a loss asks for them -> what they hold: "text", "numbers" or "image" (tables alone).
        options: fields of `PairReading`.

    Raises:
        DataError: nothing there that can be read; the message says what would be.
        UnknownNameError: no such option.
        ConfigError: a value that is not usable, or an option that does not apply to the kind of data found.
    """
    reading = options_from(PairReading, options, READER)
    if unused := sorted(set(options) & IN_A_ROW):
        raise ConfigError(f"option {unused[0]} is for shards that are read in sequence; omit it, or add order=shards")
    if is_url(str(path)):
        raise DataError(f"{printed_name(str(path))}: URLs are read by `vladapt pretrain` alone; give a path on a disk")
    source = _source(str(path), hashes)
    named = ("image_column", "caption_column", "group_column", "root", "language", "rewrites")
    values = {name: getattr(reading, name) for name in named}
    asked = {name: _as_paths(name, value) for name, value in values.items() if value and value != AUTO}
    for name in asked:
        if name not in source.options:
            raise ConfigError(f"option {name} does not apply to {source.kind} ({path}); omit it")
    if columns and source.keeps_columns:
        asked["columns"] = columns
    pairs = source.read(**asked)
    if isinstance(pairs.images, StoredImages):
        pairs = replace(pairs, images=StoredImages(reading.max_pixels))
    if reading.split:
        return _of_split(pairs, reading.split, path)
    return _with_splits(pairs, source, hashes, seed=reading.seed, val=reading.val, test=reading.test)


def options_of_sources(paths: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each of several sources those options of `Reading` that apply to what lies there.

    Raises:
        UnknownNameError: no such option. ConfigError: a value that is not usable, or an option that applies to no
            source. DataError: nothing at a path that can be read.
    """
    options_from(PairReading, options, READER)
    applying = [{name: options[name] for name in options if name in _applying(path, options)} for path in paths]
    for name in options:
        if not any(name in of for of in applying):
            cure = "omit it, or add order=shards" if name in IN_A_ROW else "omit it"
            raise ConfigError(
                f"option {name} applies to none of the sources ({', '.join(map(printed_name, paths))}); {cure}"
            )
    return applying


def _applying(path: str, options: Mapping[str, Any]) -> frozenset[str]:
    always, shards = {"seed", "max_pixels"}, holds_shards(path)
    if shards and reads_in_a_row(path, options.get("order", "auto")):
        return frozenset({*always, "order", *IN_A_ROW})
    own = {"order"} if shards else set()
    return frozenset({*always, *own, "split", "val", "test"}) | _source(path, None).options


@dataclass(frozen=True)
class _Source:
    """How a path is read: a name for messages, options that apply, and what reads it."""

    kind: str
    options: frozenset[str]
    read: Callable[..., PairSet]
    split_by_class: bool = False
    keeps_columns: bool = False


def _as_paths(name: str, value: Any) -> Any:
    if name == "root":
        root = Path(os.path.abspath(value))
        if not root.is_dir():
            raise DataError(f"{value}: no such folder; give the folder of the images as root")
        return root
    return [Path(file) for file in value] if name == "rewrites" else value


# which reader ----------------------------------------------------------------------------------------------------


def _source(name: str, hashes: FileHashes | None) -> _Source:
    path = Path(os.path.abspath(name))
    if path.is_dir():
        return _source_of_folder(path, hashes)
    if path.is_file():
        return _source_of_file(path, hashes)
    if name == SAMPLE:
        return _Source("the sample", frozenset(), sample_pairs)
    if BRACES.search(name):
        return _shards(expanded_braces(str(path)), hashes)
    if path.exists():
        check_regular(path)
    raise DataError(f"{name}: no such file or folder; give {WHAT_IS_READ}")


def _source_of_folder(folder: Path, hashes: FileHashes | None) -> _Source:
    if several := multilingual_set(folder):
        return _multilingual(several)
    entries = visible(folder)
    if shards := PairSet.shards_in(folder):
        return _shards(shards, hashes, folder)
    lists = list(dict.fromkeys(file for pattern in PairSet.JSON_NAMES for file in sorted(folder.glob(pattern))))
    if lists:
        return _source_of_lists(folder, lists)
    tables = sorted(Path(entry.path) for entry in entries if Path(entry.name).suffix.lower() in PairSet.TABLES)
    if len(tables) > 1:
        raise DataError(f"{folder}: holds {', '.join(table.name for table in tables)}; give one of them")
    if tables:
        return _source_of_file(tables[0], hashes)
    if holds_texts_beside(folder):
        return _Source("images with texts next to them", frozenset(), lambda: read_texts_beside(folder))
    raise DataError(f"{folder}: no image-text pairs found in it; give {WHAT_IS_READ}")


def _source_of_lists(folder: Path, files: list[Path]) -> _Source:
    if len(files) == 1:
        return _source_of_json(files[0])
    coco = [file for file in files if file.name.startswith("captions")]
    if len(coco) == len(files):
        return _coco(files)
    raise DataError(f"{folder}: holds {', '.join(file.name for file in files)}; give one of them")


def _source_of_file(path: Path, hashes: FileHashes | None) -> _Source:
    if several := multilingual_set(path):
        return _multilingual(several)
    suffix = path.suffix.lower()
    if suffix == ".tar":
        return _shards([path], hashes)
    if suffix == ".json":
        return _source_of_json(path)
    if suffix in PairSet.TABLES:
        return _table(path)
    if suffix == ".parquet":
        return _Source("a list of pairs", frozenset(), partial(read_pair_list, path, hashes), keeps_columns=True)
    if suffix in PACKED:
        raise DataError(f"{path}: packed; unpack it first (a .tar can stay as it is)")
    raise DataError(f"{path}: not a known kind of pairs; give {WHAT_IS_READ}")


def _source_of_json(path: Path) -> _Source:
    content = read_json(path)
    if is_coco_captions(content):
        return _coco([path])
    if is_karpathy(content):
        return _listing("Karpathy's JSON", lambda root=None: read_karpathy(path, content, root))
    if is_person_search(content):
        source = _listing("person search JSON", lambda root=None: read_person_search(path, content, root))
        return replace(source, split_by_class=True)
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        return _table(path, content)
    raise DataError(f"{path}: JSON of another kind (boxes only?); give {WHAT_IS_READ}")


def _multilingual(several: MultilingualSet) -> _Source:
    return _Source(several.kind, frozenset({"root", "language"}), several.read, keeps_columns=True)


def _coco(files: list[Path]) -> _Source:
    return _listing("COCO captions", lambda root=None: read_coco_captions(files, root))


def _listing(kind: str, read: Callable[..., PairSet]) -> _Source:
    return _Source(kind, frozenset({"root"}), read)


def _table(path: Path, content: list[dict[str, Any]] | None = None) -> _Source:
    def read(**options: Any) -> PairSet:
        rows: Iterator[tuple[int, dict[str, Any]]] | None = enumerate(content, start=1) if content else None
        return read_table_pairs(path, rows=rows, **options)

    options = frozenset({"image_column", "caption_column", "group_column", "root", "rewrites"})
    return _Source("a table", options, read, keeps_columns=True)


def _shards(paths: list[Path], hashes: FileHashes | None, base: Path | None = None) -> _Source:
    base = base or Path(os.path.commonpath([path.parent for path in paths]))

    def read(columns: Mapping[str, str] | None = None) -> PairSet:
        return read_shards(paths, base, hashes, columns)

    return _Source("tar shards", frozenset(), read, keeps_columns=True)


# splits ----------------------------------------------------------------------------------------------------------


def _of_split(pairs: PairSet, split: str, path: str | Path) -> PairSet:
    if not pairs.splits:
        return pairs.with_split([split] * len(pairs))
    if split not in pairs.splits:
        raise DataError(f"{path}: has no rows of split '{split}'; it has {', '.join(pairs.splits)}")
    return pairs.split(split)


def _with_splits(pairs: PairSet, source: _Source, hashes: FileHashes | None, **shares: Any) -> PairSet:
    if not pairs.splits:
        hashes = hashes or FileHashes()
        assigned = assign_pair_splits(pairs, hashes=hashes, by_class=source.split_by_class, **shares)
        what = "persons" if source.split_by_class else "images" if pairs.columns.groups is None else "groups"
        held_out = f"{shares['val']:.0%} of the {what} are val, {shares['test']:.0%} test"
        return replace(assigned, notes=[*assigned.notes, f"No splits given: {held_out}."])
    without = pairs.split_codes == 0
    if without.any():
        codes = np.where(without, SPLIT_CODES["train"], pairs.split_codes).astype(np.uint8)
        pairs = pairs.with_split_codes(codes, [f"Rows without a split, taken as train: {int(without.sum())}."])
    return pairs

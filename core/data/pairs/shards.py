"""WebDataset shards: tar files whose members with the same name but for the extension are one sample.

They are indexed once; then every sample is read by itself where it lies, by whichever process and worker needs it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import DataError
from ..class_folders import Layout
from ..file_hashes import FileHashes
from ..files import licence_of
from .builder import field_notes, nothing_left, sorted_labels
from .columns import list_numbers, text_at, text_column
from .pair_set import SPLIT_CODES, PairColumns, PairSet, StoredImages
from .shard_index import NUMBERS, TEXTS, ShardIndex, shard_index

BRACES = re.compile(r"\{([^{}]*)\}")
SEQUENCE = re.compile(r"^(\d+)\.\.(\d+)$")
MOST_SHARDS = 1_000_000


def read_shards(
    paths: Sequence[Path],
    base: Path,
    hashes: FileHashes | None = None,
    columns: Mapping[str, str] | None = None,
    chosen: Callable[[Path, ShardIndex], np.ndarray] | None = None,
) -> PairSet:
    """The samples of some shards: an image, and a `.txt`, or a `.json` with the fields of a table's row; `.cls` is the
    class. An image's bytes stay where they are.

    Where the names of shards or folders tell several splits ("train-0001.tar", "val/"), they count; a "split" in a
    `.json` counts more.

    Args:
        paths: the tar files.
        base: folder that they are named relative to.
        hashes: its folder keeps the indices; by default $VLADAPT_CACHE, else ~/.cache/vladapt.
        columns: keys of the `.json` that are kept in addition to the usual ones -> what they hold: "text" or "numbers".
        chosen: (shard, its index) -> which of its samples are read; all of them without it.

    Raises:
        DataError: a shard cannot be read or is not a plain tar file, an unknown split, or no sample can be used.
    """
    cache = Path((hashes or FileHashes()).root)
    indices = []
    for path in paths:
        index = shard_index(path, cache, columns)
        indices.append(index if chosen is None else index.take(chosen(path, index)))
    skipped = [pair for index in indices for pair in index.skipped]
    if not any(len(index) for index in indices):
        raise DataError(nothing_left(paths[0] if len(paths) == 1 else base, skipped))
    widths = {
        name: _width(name, paths, indices) for name in indices[0].samples.column_names if name.startswith(NUMBERS)
    }
    samples = pa.concat_tables([index.samples for index in indices])
    columns_of = {name: samples[name].combine_chunks() for name in samples.column_names}
    class_names, labels = _labels(columns_of["label"])
    counts = np.array([len(index) for index in indices])
    joined = PairColumns(
        base=str(base),
        files=text_column(os.path.relpath(path, base) for path in paths),
        file_of=np.repeat(np.arange(len(indices), dtype=np.uint32), counts),
        ids=columns_of["key"],
        offsets=columns_of["offset"].to_numpy(),
        sizes=columns_of["size"].to_numpy(),
        captions=columns_of["captions"],
        texts={name.removeprefix(TEXTS): rows for name, rows in columns_of.items() if name.startswith(TEXTS)},
        labels=labels,
        numbers={name.removeprefix(NUMBERS): list_numbers(columns_of[name]) for name, width in widths.items() if width},
    )
    pairs = PairSet(
        columns=joined,
        rows=np.arange(len(joined)),
        split_codes=_splits(paths, base, columns_of["split"].to_numpy(), counts),
        class_names=class_names,
        images=StoredImages(),
        name=base.name,
        licence=licence_of(base),
        skipped=skipped,
        total=len(joined) + len(skipped),
    )
    pairs.notes.extend([*(note for index in indices for note in index.notes), *field_notes(pairs)])
    return pairs


def expanded_braces(pattern: str) -> list[Path]:
    """The files that a name with braces stands for.

    Raises:
        DataError: braces that mean nothing, or one of the files is missing.
    """
    paths = [Path(name) for name in brace_names(pattern)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{pattern}: {len(missing)} of {len(paths)} files are missing, the first is {missing[0]}")
    return paths


def brace_names(pattern: str) -> list[str]:
    """The names that one with braces stands for: `shard-{000..012}.tar`, `{train,val}.tar`.

    Raises:
        DataError: braces that mean nothing, or more names than any set has.
    """
    pieces = BRACES.split(pattern)  # text and the insides of braces in turn
    choices = [[piece] if place % 2 == 0 else _choices(piece, pattern) for place, piece in enumerate(pieces)]
    if np.prod([float(len(choice)) for choice in choices]) > MOST_SHARDS:
        raise DataError(f"{pattern}: stands for more than {MOST_SHARDS:,} files; correct the numbers")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str, pattern: str) -> Sequence[str]:
    if match := SEQUENCE.match(inside):
        first, last = match.groups()
        width = len(first) if first.startswith("0") else 0
        if 0 <= int(last) - int(first) < MOST_SHARDS:
            return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    if "," in inside and ".." not in inside:
        return inside.split(",")
    raise DataError(f"{pattern}: braces {{{inside}}} mean nothing; write {{000..012}} or {{a,b}}")


def _labels(labels: pa.LargeBinaryArray) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names in order, and (N,) int32 that index them; -1 for none."""
    coded = pc.if_else(pc.equal(pc.binary_length(labels), 0), None, labels).dictionary_encode()
    names = [text_at(coded.dictionary, number) for number in range(len(coded.dictionary))]
    return sorted_labels(names, coded.indices.fill_null(-1).to_numpy())


def _splits(paths: Sequence[Path], base: Path, own: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) uint8: by the samples' own word, else by the names of the shards if these tell several splits."""
    by_name = np.array([SPLIT_CODES[_split_of(path, base)] for path in paths], np.uint8)
    return np.where(own == 0, by_name.repeat(counts), own) if len({*by_name.tolist()} - {0}) > 1 else own


def _split_of(path: Path, base: Path) -> str:
    return split_in_name(path.stem, path.parent.name if path.parent != base else "")


def split_in_name(stem: str, folder: str = "") -> str:
    """The split that the name of a shard's folder, or of the shard, tells; "" where neither does."""
    words = [*([folder] if folder else []), *re.split(r"[-_.]", stem)]
    return next((Layout.SPLITS[word.lower()] for word in words if word.lower() in Layout.SPLITS), "")


def _width(name: str, paths: Sequence[Path], indices: Sequence[ShardIndex]) -> int:
    """How many numbers a further column has in each sample that has some.

    Raises:
        DataError: shards have different numbers of them.
    """
    of_shards = (int(pc.max(pc.list_value_length(index.samples[name])).as_py() or 0) for index in indices)
    widths = {width: path for width, path in zip(of_shards, paths, strict=True) if width}
    if len(widths) > 1:
        (width, path), (other, elsewhere) = list(widths.items())[:2]
        raise DataError(
            f"{elsewhere}: {name.removeprefix(NUMBERS)} has {other} numbers, in {path} it has {width}; make them equal"
        )
    return next(iter(widths), 0)

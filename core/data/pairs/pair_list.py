"""A list of chosen pairs, LIST.parquet: where each lies, and how often it should be seen. It is read as one set, and no
image is copied.

A row is a sample of a tar, a row of a Parquet file, or an image of its own with its caption beside it in the list.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, first_of, printable
from ...runtime.reading import check_regular
from ...runtime.remote import is_url, printed_name
from ..file_hashes import FileHashes
from ..images import IMAGE
from .builder import PairBuilder
from .columns import TextColumn, TextsColumn, lengths, text_at, texts_at
from .pair_set import PairSet
from .record_fields import cleaned
from .shard_index import ShardIndex
from .shard_reader import ChosenKeys
from .shards import read_shards
from .text_beside import captions_beside

if TYPE_CHECKING:
    import pyarrow

TAG, FORMAT = b"vladapt.pairs", b"1"
"""In the metadata of the file: what it is."""
TYPES = {
    "id": "string",
    "weight": "float",
    "source": "string",
    "key": "string",
    "row": "int64",
    "caption": "string",
    "synthetic": "string",
}
"""Columns: `source` is the tar, the Parquet file or the image, relative to the list where it lies below it; `key` names
a sample of a tar, `row` a row of a Parquet file; `caption` is null for tars, which have their texts in them, unless
curation changed the text; `synthetic` is a caption by a model, or null."""
TARS, FILES, TABLES = ".tar", "images", ".parquet"
MOST_TIMES = 255
REWRITE = "write tars of the same decisions, which can be read sample by sample"


def list_schema() -> pyarrow.Schema:
    """Of a list."""
    import pyarrow as pa

    columns = {name: pa.type_for_alias(kind) for name, kind in TYPES.items()}
    return pa.schema(columns, metadata={TAG: FORMAT})


def list_rows(
    path: str | Path, first: int = 0, last: int | None = None, columns: Sequence[str] = tuple(TYPES)
) -> Iterator[dict[str, Any]]:
    """Rows [first, last) of a list, with `source` as a path or URL that can be opened.

    Args:
        columns: `source`, and those that are needed besides.

    Raises:
        DataError: no such list, a damaged one, or a source that leaves the folder of the list.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    check_regular(path)
    folder, place = os.path.dirname(os.path.abspath(path)), 0
    try:
        with pq.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(TAG) != FORMAT or set(TYPES) - set(file.schema_arrow.names):
                raise DataError(
                    f"{path}: not a list of pairs by `vladapt curate`; give LIST.parquet, or a table of pairs as "
                    ".csv, .tsv or .jsonl"
                )
            groups = []
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if place + rows > first and (last is None or place < last):
                    groups.append((group, place))
                place += rows
            for group, place in groups:
                for batch in file.iter_batches(8192, row_groups=[group], columns=list(columns), use_threads=False):
                    inside = max(first - place, 0), len(batch) if last is None else max(last - place, 0)
                    for row in batch.slice(inside[0], inside[1] - inside[0]).to_pylist():
                        yield {**row, "source": _opened_by(row["source"], folder, path)}
                    place += len(batch)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable Parquet file ({reason}); write the list again") from error


def count_list(path: str | Path) -> int:
    """How many rows a list has; errors as of `list_rows`."""
    import pyarrow.parquet as pq

    for _ in list_rows(path, 0, 1):
        break
    return pq.read_metadata(path).num_rows


def kind_of_source(source: str) -> str:
    """Of `TARS`, `TABLES`, `FILES`: by its suffix."""
    name = (source.partition("?")[0] if is_url(source) else source).lower()
    return next((kind for kind in (TARS, TABLES) if name.endswith(kind)), FILES)


def is_pair_list(place: str) -> bool:
    """Whether this names a list, by its suffix."""
    return not is_url(place) and place.lower().endswith(TABLES) and os.path.isfile(place)


def list_lies_elsewhere(path: Path) -> bool:
    """Whether pairs of a list are in object storage, so that they are read in sequence."""
    return any(map(is_url, sources_of(path)))


def sources_of(path: str | Path) -> Iterator[str]:
    """The sources of a list in its order, one after the other without repetition; errors as of `list_rows`."""
    return (source for source, _ in groupby(row["source"] for row in list_rows(path, columns=("source",))))


def listed_shards(path: Path, seed: int) -> tuple[list[str], tuple[ChosenKeys, ...]]:
    """The tars of a list, and which of their samples are on it. A weight is a number of times: what is behind the point
    is drawn by the hash of the id and the seed.

    Raises:
        DataError: see `list_rows`; a pair is in no tar, or comes more than 255 times.
    """
    times: dict[str, dict[str, int]] = {}
    key = seed.to_bytes(8, "little", signed=True)
    for row in list_rows(path):
        if kind_of_source(row["source"]) != TARS:
            raise DataError(f"{path}: {printed_name(row['source'])}: only tars are read in sequence; {REWRITE}")
        if row["synthetic"]:
            raise DataError(
                f"{path}: has captions by a model, which are not read in sequence; copy the tars to a disk, or write "
                "the list without --captions"
            )
        if row["caption"] is not None:
            raise DataError(f"{path}: has texts that curation changed, which are not read in sequence; {REWRITE}")
        weight = row["weight"]
        if not 0 <= weight <= MOST_TIMES:
            raise DataError(f"{path}: {row['id']} has the weight {weight}; weights are 0 to {MOST_TIMES}")
        digest = hashlib.blake2b(row["id"].encode(errors="surrogatepass"), digest_size=8, key=key).digest()
        drawn = int(weight) + (int.from_bytes(digest, "little") / 2**64 < weight % 1)
        if drawn:
            times.setdefault(row["source"], {})[row["key"]] = drawn
    if not times:
        raise DataError(f"{path}: empty list; keep some of the pairs")
    return list(times), tuple(map(ChosenKeys.of, times.values()))


def read_pair_list(path: Path, hashes: FileHashes | None = None, columns: Mapping[str, str] | None = None) -> PairSet:
    """The pairs of a list, each where it lies; their weights are those of the list.

    Args:
        path: LIST.parquet.
        hashes, columns: as of `read_shards`, for samples of tars.

    Raises:
        DataError: see `list_rows`; a source is missing, cannot be read pair by pair, or no pair can be used.
    """
    tars: list[str] = []
    kinds, base = set(), ""
    for source in sources_of(path):
        kind = kind_of_source(source)
        if is_url(source) or kind == TABLES:
            where = "is not on a disk" if is_url(source) else "holds images in groups of rows, which are read whole"
            raise DataError(f"{path}: {printed_name(source)} {where}; {REWRITE}")
        kinds.add(kind)
        tars += [source] if kind == TARS else []
        base = os.path.commonpath([base or os.path.dirname(source), os.path.dirname(source)])
    if not kinds:
        raise DataError(f"{path}: empty list; keep some of the pairs")
    if len(kinds) > 1:
        raise DataError(f"{path}: holds samples of tars and images of their own; write a list of each")
    if len(set(tars)) < len(tars):
        raise DataError(f"{path}: pairs of one tar are not one after the other; write the list again")
    return _of_tars(path, list(map(Path, tars)), Path(base), hashes, columns) if tars else _of_files(path, base)


def _of_tars(
    path: Path, tars: Sequence[Path], base: Path, hashes: FileHashes | None, columns: Mapping[str, str] | None
) -> PairSet:
    missing = [tar for tar in tars if not tar.is_file()]
    if missing:
        raise DataError(f"{path}: {len(missing)} of its {len(tars)} tars are missing ({missing[0]}); restore them")
    weights: list[np.ndarray] = []
    synthetic = TextColumn()
    changed: list[tuple[int, str]] = []  # row of the set, its text
    skipped: list[tuple[str, str]] = []
    by_source = groupby(list_rows(path), lambda row: row["source"])  # in the order of the tars, one at a time
    chosen_bytes = 0

    def chosen(shard: Path, index: ShardIndex) -> np.ndarray:
        nonlocal chosen_bytes
        keys = index.samples["key"]
        places = {printable(text_at(keys, row)): row for row in range(len(index))}
        reasons = dict(index.skipped)
        there = []
        for row in next(by_source)[1]:
            if row["key"] in places:
                there.append((places[row["key"]], row["weight"], row["synthetic"], row["caption"]))
            else:
                name = f"{shard.name}:{row['key']}"
                skipped.append((name, reasons.get(name, "no such sample in the tar")))
        there.sort(key=lambda each: each[0])
        weights.append(np.array([weight for _, weight, *_ in there], np.float32))
        for _, _, text, caption in there:
            if caption is not None and (caption := cleaned(caption)):
                changed.append((len(synthetic), caption))
            synthetic.add(cleaned(text or ""))
        rows = np.array([place for place, *_ in there], np.int64)
        chosen_bytes += int(index.samples["size"].to_numpy()[rows].sum())
        return rows

    try:
        pairs = read_shards(tars, base, hashes, columns, chosen)
    except DataError:
        if skipped:
            raise _unusable(path, skipped) from None
        raise
    size = sum(os.path.getsize(tar) for tar in tars)
    notes = [
        f"List: {len(pairs):,} samples of {len(tars):,} tars, read where they lie; their images are "
        f"{_megabytes(chosen_bytes)} of {_megabytes(size)} ({chosen_bytes / max(1, size):.1%}), and no more is read in "
        "an epoch."
    ]
    pairs = _with_synthetic(_with_changed(replace(pairs, name=path.stem), dict(changed)), synthetic.build())
    return _weighted(pairs, np.concatenate(weights), skipped, notes)


def _of_files(path: Path, base: str) -> PairSet:
    builder = PairBuilder(base, path, "row")
    weights: dict[str, float] = {}  # in the order of the images, each of which is one row of the set
    for number, row in enumerate(list_rows(path), start=1):
        name, source = os.path.relpath(row["source"], base), Path(row["source"])
        captions = [text] if (text := cleaned(row["caption"] or "")) else []
        reason = "" if source.is_file() and source.stat().st_size else "no such file, or an empty one"
        if not reason and not captions:
            captions, reason = captions_beside(source.with_suffix(".txt"))
        if reason:
            builder.skip(name, reason)
            continue
        texts = {"synthetic": [text]} if (text := cleaned(row["synthetic"] or "")) else None
        builder.add(name, captions, texts=texts, place=number)
        weights[name] = max(weights.get(name, 0.0), row["weight"])
    return _weighted(builder.build(name=path.stem), np.array([*weights.values()], np.float32), [], [])


def _with_changed(pairs: PairSet, texts: Mapping[int, str]) -> PairSet:
    """With other texts in place of the captions that some rows have in their tars."""
    if not texts:
        return pairs
    own, joined = pairs.columns.captions, TextsColumn()
    for row in range(len(own)):
        joined.add([texts[row]] if row in texts else texts_at(own, row))
    return replace(pairs, columns=replace(pairs.columns, captions=joined.build()))


def _with_synthetic(pairs: PairSet, texts: pyarrow.LargeBinaryArray) -> PairSet:
    """With a further text "synthetic" of each row that has one in the list, behind those that it has in its tar."""
    if not lengths(texts).any():
        return pairs
    own, joined = pairs.columns.texts.get("synthetic"), TextsColumn()
    for row in range(len(texts)):
        joined.add([*(texts_at(own, row) if own is not None else ()), *filter(None, [text_at(texts, row)])])
    return replace(pairs, columns=replace(pairs.columns, texts={**pairs.columns.texts, "synthetic": joined.build()}))


def _weighted(pairs: PairSet, weights: np.ndarray, skipped: list[tuple[str, str]], notes: list[str]) -> PairSet:
    """With weights, where they are not 1 for all."""
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise DataError(f"{pairs.name}: weights must be numbers of 0 and more, one above 0; write the list again")
    columns = pairs.columns if (weights == 1).all() else replace(pairs.columns, weights=weights)
    skipped, notes, total = [*pairs.skipped, *skipped], [*pairs.notes, *notes], pairs.total + len(skipped)
    return replace(pairs, columns=columns, skipped=skipped, notes=notes, total=total)


def _unusable(path: Path, skipped: Sequence[tuple[str, str]]) -> DataError:
    names = first_of([f"{name} ({reason})" for name, reason in skipped], 2)
    return DataError(f"{path}: none of its {len(skipped)} pairs can be used: {names}; write the list again")


def _opened_by(source: str, folder: str, path: Path) -> str:
    if is_url(source):
        return source
    if not os.path.isabs(source):
        whole = os.path.normpath(os.path.join(folder, source))
        if os.path.commonpath([folder, whole]) != folder:
            raise DataError(f"{path}: '{source[:80]}' leaves the folder of the list; write the list again")
        source = whole
    if kind_of_source(source) == FILES and not source.lower().endswith(tuple(IMAGE.suffixes)):
        raise DataError(f"{path}: '{source[-80:]}' is neither a tar nor an image; write the list again")
    return source


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

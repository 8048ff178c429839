"""The table of all pairs, sorted by id, gathered from shards: columns as files that are mapped into memory.

FOLDER/ids.arrow
FOLDER/column-0.arrow, ...   strings
FOLDER/column-1.npy, ...     numbers, flags, and features, (N, D), as they were stored
FOLDER/table.json            what it holds, and in which file each column lies; written last

Sorting and joining are DuckDB's, out of core, so that memory stays flat however many pairs there are.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts.curator import PairTable
from ..errors import DataError
from ..runtime.files import MARKER, PARTIAL, claimed, remove_abandoned
from ..runtime.process import need_package
from .stored import PARQUET, PairFeatures, StoredColumns, database, joined_query, readable_table

if TYPE_CHECKING:
    import duckdb
    import pyarrow

DESCRIPTION, SORTED, FORMAT = "table.json", "sorted.parquet", 2
HAS = "has_"
"""Before the name of features: the flags of the pairs that have some."""
PLACES = "places"
ROWS_AT_ONCE, FEATURES_AT_ONCE = 65_536, 8192


def build_table(
    folder: Path,
    facts: Sequence[str],
    features: PairFeatures | None,
    say: Callable[[str], None] = lambda line: None,
    columns: Sequence[StoredColumns] = (),
) -> PairTable:
    """The table in a folder, made unless it is there as a whole.

    Args:
        folder: named by what it is made of.
        facts: Parquet files of `PairFacts`; none for what has features alone.
        features: of the same pairs.
        columns: of the same pairs, that no source has.

    Raises:
        DataError: an id occurs twice, or no pair has features. CapabilityError: DuckDB is not installed.
    """
    if not (folder / DESCRIPTION).is_file():
        need_package("curation", "duckdb", "curation")
        say("Gathering the pairs into one table")
        with whole_folder(folder, DESCRIPTION) as work:
            _gather(work, facts, features, columns)
    return open_table(folder)


def open_table(folder: Path) -> PairTable:
    """A table that lies on the disk; nothing is read.

    Raises:
        DataError: it is not whole.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        columns = {
            name: _strings_at(folder / file) if file.endswith(".arrow") else np.load(folder / file, "r")
            for name, file in description["columns"].items()
        }
        encoder, spec = description["encoder"], description.get("spec", "")
        return PairTable(_strings_at(folder / "ids.arrow"), columns, encoder, spec=spec)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{folder}: not a whole table of pairs ({error}); remove the folder") from None


@contextmanager
def whole_folder(folder: Path, last: str) -> Iterator[Path]:
    """A folder to be filled in the block, which then stands as `folder`. What another process has finished meanwhile
    stays, and what killed ones left is removed.

    Args:
        last: a file in it, by which it is whole.
    """
    remove_abandoned(folder.parent.glob(f"{PARTIAL}{folder.name}-*"), MARKER)
    work = folder.with_name(f"{PARTIAL}{folder.name}-{secrets.token_hex(8)}")
    work.mkdir(parents=True)
    try:
        with claimed(work / MARKER):
            yield work
            with suppress(OSError):  # a system that removes no open files
                (work / MARKER).unlink()
        if not (folder / last).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(work, folder)
    except OSError:
        if not (folder / last).is_file():
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _gather(
    folder: Path, facts: Sequence[str], features: PairFeatures | None, columns: Sequence[StoredColumns]
) -> None:
    with database(folder) as base:
        path = str(folder / SORTED)
        own, files = ("*", list(facts)) if facts else ("id", list(features.files if features else ()))
        query, further = joined_query(f"SELECT {own} FROM {PARQUET}", columns)
        base.execute(f"COPY ({query} ORDER BY f.id) TO '{_quoted(path)}'", [files, *further])
        names, rows = _write_columns(folder, path)
        encoder = spec = ""
        if features is not None:
            encoder, spec = features.encoder, features.spec
            with readable_table(os.path.dirname(features.files[0])):
                _write_features(folder, base, path, features, rows, names)
    (folder / SORTED).unlink()
    shutil.rmtree(folder / "sorting", ignore_errors=True)
    description = {"format": FORMAT, "rows": rows, "encoder": encoder, "spec": spec, "columns": names}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _write_columns(folder: Path, path: str) -> tuple[dict[str, str], int]:
    """The columns of a sorted Parquet file, each as a file; (column -> file, number of rows)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False)
    rows = file.metadata.num_rows
    if not rows:
        raise DataError("there are no pairs; check the sources")
    schema = file.schema_arrow
    own = [each for each in schema if each.name != "id"]
    names = {each.name: f"column-{n}.{'arrow' if _is_text(each.type) else 'npy'}" for n, each in enumerate(own)}
    numbers = {
        name: np.lib.format.open_memmap(folder / file, "w+", _numpy_type(schema.field(name).type), (rows,))
        for name, file in names.items()
        if file.endswith(".npy")
    }
    texts = {"id": "ids.arrow", **{name: file for name, file in names.items() if name not in numbers}}
    held = pa.schema([("value", pa.large_string())])
    writers = {name: pa.ipc.new_file(str(folder / file), held) for name, file in texts.items()}
    start, last = 0, None
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            last = _check_ids(batch.column("id").to_pylist(), last)
            for name, writer in writers.items():
                writer.write_batch(pa.record_batch([batch.column(name).cast(pa.large_string())], held))
            for name, column in numbers.items():
                values = batch.column(name)
                column[start : start + len(batch)] = values.fill_null(_nothing(values.type)).to_numpy(
                    zero_copy_only=False
                )
            start += len(batch)
    finally:
        for writer in writers.values():
            writer.close()
    return names, rows


def _check_ids(ids: list[str], last: str | None) -> str:
    for before, id_ in zip([last, *ids], ids):
        if id_ == before:
            raise DataError(f"the id {id_!r} occurs twice among the pairs; make the ids unique")
    return ids[-1]


def _write_features(
    folder: Path,
    base: duckdb.DuckDBPyConnection,
    path: str,
    features: PairFeatures,
    rows: int,
    columns: dict[str, str],
) -> None:
    """Features in the order of the ids, and flags of those that have some; their files are added to the columns."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    written: dict[str, np.ndarray] = {}
    flags = {name: np.zeros(rows, bool) for name in features.columns}
    places, start, names = _places(folder, base, path, features), 0, list(features.columns.values())
    for file in features.files:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(FEATURES_AT_ONCE, columns=names):
            place = places[start : start + len(batch)]
            start += len(batch)
            for name, column in features.columns.items():
                values = batch.column(column)
                there = np.flatnonzero((place >= 0) & values.is_valid().to_numpy(zero_copy_only=False))
                if not len(there):
                    continue
                lists = values.take(there)
                widths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
                vectors = lists.flatten().to_numpy(zero_copy_only=False)
                if name not in written:
                    columns[name] = f"column-{len(columns)}.npy"
                    shape = (rows, int(widths[0]))
                    written[name] = np.lib.format.open_memmap(folder / columns[name], "w+", vectors.dtype, shape)
                if (widths != written[name].shape[1]).any():
                    raise DataError(f"{file}: features of another width than those before; embed all pairs with one")
                written[name][place[there]] = vectors.reshape(len(there), -1)
                flags[name][place[there]] = True
    os.unlink(folder / f"{PLACES}.npy")
    if not written:
        raise DataError(f"{os.path.dirname(features.files[0])}: features of none of the pairs; embed the same sources")
    for name in written:
        columns[f"{HAS}{name}"] = f"column-{len(columns)}.npy"
        np.save(folder / columns[f"{HAS}{name}"], flags[name])


def _places(folder: Path, base: duckdb.DuckDBPyConnection, path: str, features: PairFeatures) -> np.ndarray:
    """(M,) position in the table of each row of the files of features, in their order; -1 where it is of no pair."""
    import pyarrow.parquet as pq

    counts = [pq.read_metadata(file).num_rows for file in features.files]
    starts = np.cumsum([0, *counts])
    places = np.lib.format.open_memmap(folder / f"{PLACES}.npy", "w+", np.int64, (int(starts[-1]),))
    places[:] = -1
    base.execute(
        "CREATE TEMP TABLE files AS SELECT unnest(?) AS name, unnest(?) AS start",
        [list(features.files), starts[:-1].tolist()],
    )
    joined = str(folder / f"{PLACES}.parquet")
    base.execute(
        f"""COPY (SELECT files.start + f.file_row_number AS row, s.file_row_number AS place
        FROM read_parquet(?, filename = true, file_row_number = true, hive_partitioning = false) f
        JOIN files ON f.filename = files.name
        JOIN read_parquet('{_quoted(path)}', file_row_number = true, hive_partitioning = false) s
        ON f.id = s.id) TO '{_quoted(joined)}'""",
        [list(features.files)],
    )
    for batch in pq.ParquetFile(joined, pre_buffer=False).iter_batches(ROWS_AT_ONCE):
        places[batch.column("row").to_numpy()] = batch.column("place").to_numpy()
    os.unlink(joined)
    return places


def _strings_at(path: Path) -> pyarrow.ChunkedArray:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column("value")


def _is_text(kind: pyarrow.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _numpy_type(kind: pyarrow.DataType) -> np.dtype:
    return np.dtype(bool) if str(kind) == "bool" else np.dtype(kind.to_pandas_dtype())


def _nothing(kind: pyarrow.DataType) -> Any:
    """What stands for a number that is missing."""
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return False
    return float("nan") if pa.types.is_floating(kind) else 0


def _quoted(path: str) -> str:
    return path.replace("'", "''")


def decided(folder: str) -> list[str]:
    """Files of decisions.

    Raises:
        DataError: none in that folder, or they are damaged or of something else.
    """
    import pyarrow.parquet as pq

    files = sorted(map(str, Path(folder).glob("part-*.parquet")))
    if not files:
        raise DataError(f"{folder}: no decisions in it; give the folder that `vladapt curate` printed")
    for file in files:
        with readable_table(file):
            if not {"id", "keep"} <= set(pq.read_schema(file).names):
                raise DataError(f"{file}: no decisions in it; give the folder that `vladapt curate` printed")
    return files


def positions_kept(table: PairTable, decisions: Sequence[str]) -> np.ndarray:
    """(M,) int64, ascending: the pairs of a table that all of some earlier decisions keep; none where these keep none.

    Args:
        decisions: folders of `part-*.parquet`.

    Raises:
        DataError: no decisions there, or of other pairs.
    """
    import pyarrow as pa

    ids = pa.table({"id": table.ids, "place": np.arange(len(table.ids))})
    with database() as base:
        base.register("ids", ids)
        files = [decided(folder) for folder in decisions]
        tests = [f"ids.id IN (SELECT d.id FROM {PARQUET} d WHERE d.keep)" for _ in files]
        query = f"SELECT place FROM ids WHERE {' AND '.join(tests)} ORDER BY place"
        places = base.execute(query, files).fetchnumpy()["place"]
        for folder, each in zip(decisions, files) if not len(places) else ():
            judged = f"SELECT 1 FROM ids WHERE ids.id IN (SELECT d.id FROM {PARQUET} d) LIMIT 1"
            if not base.execute(judged, [each]).fetchall():
                raise DataError(f"{folder}: decisions of none of these pairs; give decisions of the same sources")
    return np.asarray(places, np.int64)

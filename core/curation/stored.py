"""Shards that a table of pairs is made of: read with bounded memory, and joined by the ids of the pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts.curator import TEXT
from ..errors import DataError
from .facts import FEATURES, plain_columns

if TYPE_CHECKING:
    import duckdb
    import pyarrow

ENCODER_SPEC = b"vladapt.spec"
"""In the metadata of a column of encoders: what this one is called as a backbone."""
MEMORY = "1GB"
"""Of DuckDB; what is larger is sorted on the disk."""
PARQUET = "read_parquet(?, hive_partitioning = false)"
"""Of DuckDB, which would take a folder k=v for a column k."""


@dataclass(frozen=True)
class PairFeatures:
    """What `embed --as parquet` wrote.

    Args:
        files: in order.
        columns: of `FEATURES`, those that there are -> name in the files.
        encoder: of all rows.
        spec: what it is called as a backbone; "" where that is not known.
    """

    files: tuple[str, ...]
    columns: dict[str, str]
    encoder: str
    spec: str = ""

    @classmethod
    def of(cls, folder: str | Path, backbone: str = "", encoder: str = "") -> PairFeatures:
        """The shards of a folder, or of the only such folder in it.

        Args:
            backbone: where they hold several: which, as its columns are called behind "image_features_".
            encoder: what it is called, whatever the shards call it.

        Raises:
            DataError: no shards of features, of several backbones without a choice, or rows of several encoders.
        """
        import pyarrow.parquet as pq

        files = shards_below(Path(folder), "features", "vladapt embed SOURCES --as parquet")
        with readable_table(files[0]):
            schema = pq.read_schema(files[0])
        names = schema.names
        endings = [name.removeprefix("encoder") for name in names if name.startswith("encoder")]
        if not endings:
            raise DataError(f"{files[0]}: no column 'encoder'; add one, the name of the model whose features these are")
        ending = f"_{backbone}" if backbone else ""
        if ending not in endings:
            offered = ", ".join(each.removeprefix("_") for each in endings)
            cure = "say which by --encoder" if offered else f"omit --encoder {backbone}"
            raise DataError(f"{folder}: features of {offered or 'one encoder alone'}; {cure}")
        columns = {name: f"{name}{ending}" for name in FEATURES if f"{name}{ending}" in names}
        if not columns:
            raise DataError(f"{folder}: no column of features; give a folder of `vladapt embed --as parquet`")
        if "id" not in names:
            raise DataError(f"{files[0]}: no column 'id'; call the column of the ids of the pairs so")
        for name in columns.values():
            if not _is_rows(schema.field(name).type):
                raise DataError(f"{files[0]}: column '{name}' is {schema.field(name).type}; give lists of floats")
        with database() as base:
            query = f'SELECT DISTINCT "encoder{ending}" FROM {PARQUET} LIMIT 2'
            encoders = [row[0] for row in base.execute(query, [files]).fetchall()]
        if not encoders:
            raise DataError(f"{folder}: holds no row; embed the pairs again, from tars, Parquet files or folders")
        if len(encoders) > 1:
            raise DataError(f"{folder}: features of two encoders in one set; embed all pairs with one")
        spec = (schema.field(f"encoder{ending}").metadata or {}).get(ENCODER_SPEC, b"").decode()
        return cls(tuple(files), columns, encoder or encoders[0] or "", "" if encoder else spec)

    @property
    def digest(self) -> list[list[Any]]:
        """What changes when the shards do, or which of their columns are taken."""
        versions = [[file, os.path.getsize(file), os.stat(file).st_mtime_ns] for file in self.files]
        return [[self.encoder, *sorted(self.columns.values())], *versions]


@dataclass(frozen=True)
class StoredColumns:
    """Columns that are known of pairs by their ids, such as scores that read pixels.

    Args:
        files: in order.
        names: of the columns.
        of_all: whether a pair that they do not know is left out.
    """

    files: tuple[str, ...]
    names: tuple[str, ...]
    of_all: bool = False

    @classmethod
    def of(cls, folder: str | Path, of_all: bool = False) -> StoredColumns:
        """The shards of a folder, or of the only such folder in it: numbers, flags and strings.

        Raises:
            DataError: no shards, or none with ids and such columns.
        """
        import pyarrow.parquet as pq

        files = shards_below(Path(folder), "columns", "vladapt curate score")
        with readable_table(files[0]):
            schema = pq.read_schema(files[0])
        names = tuple(name for name in plain_columns(schema) if name not in ("id", TEXT))
        if "id" not in schema.names or not names:
            raise DataError(f"{files[0]}: no column 'id', or none beside it; give a folder of `vladapt curate score`")
        return cls(tuple(files), names, of_all)

    @property
    def digest(self) -> list[list[Any]]:
        """What changes when the shards do."""
        return [[file, os.path.getsize(file), os.stat(file).st_mtime_ns] for file in self.files]


def joined_query(facts: str, columns: Sequence[StoredColumns]) -> tuple[str, list[list[str]]]:
    """A query for pairs with further columns, NULL where a pair has none and need not have them; and the files that it
    reads behind those of `facts`.

    Args:
        facts: a query for the pairs, with the column id.

    Raises:
        DataError: a column comes from two folders.
    """
    chosen, joins, names = ["f.*"], list[str](), set[str]()
    for number, each in enumerate(columns):
        if twice := names & set(each.names):
            raise DataError(f"{each.files[0]}: column '{min(twice)}' comes from another folder, too; give one of them")
        names |= set(each.names)
        chosen += [f'c{number}."{name}"' for name in each.names]
        kind = "JOIN" if each.of_all else "LEFT JOIN"
        joins.append(f"{kind} {PARQUET} c{number} ON f.id = c{number}.id")
    query = f"SELECT {', '.join(chosen)} FROM ({facts}) f {' '.join(joins)}"
    return query, [list(each.files) for each in columns]


def shards_below(folder: Path, what: str, command: str) -> list[str]:
    """Parquet files of a folder, or of the only folder of shards in it.

    Args:
        what: is in them.
        command: that writes such a folder.

    Raises:
        DataError: there are none, or several such folders.
    """
    for pattern in ("*.parquet", "*/part-*.parquet"):
        files = sorted(map(str, folder.glob(pattern)))
        if len({os.path.dirname(file) for file in files}) > 1:
            folders = sorted({os.path.dirname(file) for file in files})
            raise DataError(f"{folder}: {len(folders)} folders of shards in it; give one of {', '.join(folders[:3])}")
        if files:
            return files
    raise DataError(f"{folder}: no shards of {what}; give a folder of `{command}`")


def _is_rows(kind: pyarrow.DataType) -> bool:
    import pyarrow.types as types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return lists and types.is_floating(kind.value_type)


@contextmanager
def readable_table(place: object) -> Iterator[None]:
    """A block that reads Parquet or Arrow.

    Raises:
        DataError: a file is damaged.
    """
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise _damaged(str(place), error) from error


@contextmanager
def database(folder: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A context with an empty DuckDB of bounded memory.

    Args:
        folder: that what does not fit is sorted in.

    Raises:
        DataError: a file that is read is damaged, or lacks a column.
    """
    import duckdb

    settings: dict[str, Any] = {"memory_limit": MEMORY}
    if folder is not None:
        settings["temp_directory"] = str(folder / "sorting")
    base = duckdb.connect(":memory:", config=settings)
    try:
        base.execute("SET enable_progress_bar = false")
        yield base
    except duckdb.Error as error:
        raise _damaged("pairs", error) from error
    finally:
        base.close()


def _damaged(place: str, error: Exception) -> DataError:
    return DataError(f"{place}: cannot be read ({' '.join(str(error).split())}); restore the file, or make it again")

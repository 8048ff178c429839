"""What filters, `--only-new` and `--delete` look at, as columns: a Parquet file per segment, read a few rows at a time.

Texts are bytes (UTF-8), since names of files may be none. A segment of before (format 1) has no such file: its columns
are made of its entries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from .entries import ENCODING, Entries, Entry
from .wanted import TIME, Wanted, point_in_time

COLUMNS = "facts.parquet"
ID, SOURCE, PART, GROUP, ABOUT = "id", "source", "part", "group", "about."
NUMBER, DATE = "time as number", "time as date"
"""The time of an entry: a number, or seconds since 1970."""
AT_ONCE = 65536


class ColumnWriter:
    """Gathers the columns of a segment; `write` makes the file."""

    def __init__(self):
        self._tables: list[Any] = []

    def add(self, entries: Sequence[Entry]) -> None:
        self._tables.append(_table_of(entries))

    def write(self, path: Path) -> None:
        if not self._tables:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables(self._tables, promote_options="default")  # a batch without a fact has nulls
        pq.write_table(table, path, row_group_size=AT_ONCE)
        self._tables.clear()


def _table_of(entries: Sequence[Entry]) -> Any:
    """The columns of some entries, as a pyarrow Table."""
    import pyarrow as pa

    columns: dict[str, list] = {
        ID: [entry.id for entry in entries],
        SOURCE: [entry.source for entry in entries],
        PART: [entry.key[1] for entry in entries],
        GROUP: [entry.group for entry in entries],
    }
    names = dict.fromkeys(name for entry in entries if entry.about for name in entry.about)
    columns |= {f"{ABOUT}{name}": [entry.about.get(name) for entry in entries] for name in names}
    made = {name: pa.array(list(map(_bytes, values)), pa.binary()) for name, values in columns.items()}
    if TIME in names:
        times = [_moment(entry.about.get(TIME)) for entry in entries]
        made[NUMBER] = pa.array([time if isinstance(time, float) else None for time in times], pa.float64())
        dates = [time.timestamp() if isinstance(time, datetime) else None for time in times]
        made[DATE] = pa.array(dates, pa.float64())
    return pa.table(made)


def tables(path: Path, entries: Entries, names: Collection[str]) -> Iterator[Any]:
    """Some of the columns of a segment, a few rows at a time; one that it does not have is left out.

    Args:
        path: the Parquet file; where there is none, the columns are made of the entries.
    """
    if not path.is_file():
        for start in range(0, len(entries), AT_ONCE):
            some = _table_of([entries[row] for row in range(start, min(start + AT_ONCE, len(entries)))])
            yield some.select([name for name in some.column_names if name in names])
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True) as file:
        there = [name for name in file.schema_arrow.names if name in names]
        if not there:  # a filter by a fact that no entry of this segment has
            there = [ID]
        for batch in file.iter_batches(AT_ONCE, columns=there):
            yield pa.Table.from_batches([batch])


def wanted_rows(path: Path, entries: Entries, wanted: Wanted) -> np.ndarray:
    """(N,) bool: the rows of a segment that are wanted.

    Raises:
        ConfigError: times of the entries are dates and `since` is a number, or the other way about.
    """
    return np.concatenate([_wanted(table, wanted) for table in tables(path, entries, _columns_of(wanted))])


def rows_with(path: Path, entries: Entries, ids: Collection[str]) -> np.ndarray:
    """(N,) bool: the rows of a segment that have one of the ids."""
    return np.concatenate([_is_in(table, ID, ids) for table in tables(path, entries, (ID,))])


def keys_in(path: Path, entries: Entries, keys: Collection[tuple[str, str]], rows: np.ndarray) -> set[tuple[str, str]]:
    """Those of the keys (`Entry.key`) that a segment has.

    Args:
        rows: (N,) bool: those that count.
    """
    there, start = set(), 0
    sources, texts = {source for source, _ in keys}, {part for source, part in keys if not source}
    for table in tables(path, entries, (SOURCE, PART)):
        alike = rows[start : start + len(table)] & (_is_in(table, SOURCE, sources) | _is_in(table, PART, texts))
        start += len(table)
        chosen = table.take(np.flatnonzero(alike))
        pairs = zip(chosen.column(SOURCE).to_pylist(), chosen.column(PART).to_pylist())
        there |= {((source or b"").decode(*ENCODING), part.decode(*ENCODING)) for source, part in pairs}
    return there & set(keys)


def _columns_of(wanted: Wanted) -> set[str]:
    own = wanted.other_than
    return {
        *(f"{ABOUT}{name}" for name in wanted.values),
        *((NUMBER, DATE) if wanted.since is not None else ()),
        *((SOURCE, GROUP) if own is not None else ()),
    }


def _wanted(table: Any, wanted: Wanted) -> np.ndarray:
    rows = np.ones(len(table), bool)
    for name, value in wanted.values.items():
        rows &= _is_in(table, f"{ABOUT}{name}", [value])
    if (own := wanted.other_than) is not None:
        rows &= ~_is_in(table, SOURCE, [own.source or ""])
        rows &= ~_is_in(table, GROUP, [own.group]) if own.group else True
    if wanted.since is not None:
        since = point_in_time(wanted.since, "--since")
        own_kind, other = (NUMBER, DATE) if isinstance(since, float) else (DATE, NUMBER)
        if len(table) > _nulls(table, other):
            raise ConfigError(
                f"--since: the times of this index are {'dates' if other == DATE else 'numbers'}; give one of these"
            )
        if own_kind not in table.column_names:
            return np.zeros(len(table), bool)
        times = table.column(own_kind).to_numpy()  # NaN where unknown
        rows &= times >= (since if isinstance(since, float) else since.timestamp())
    return rows


def _nulls(table: Any, name: str) -> int:
    return table.column(name).null_count if name in table.column_names else len(table)


def _is_in(table: Any, name: str, values: Collection[str]) -> np.ndarray:
    if name not in table.column_names or not values:
        return np.zeros(len(table), bool)
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = pa.array(list(map(_bytes, values)), pa.binary())
    return pc.is_in(table.column(name), value_set=chosen).to_numpy()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else str(text).encode(*ENCODING)


def _moment(text: str | None) -> float | datetime | None:
    with suppress(ConfigError):  # in words
        return None if text is None else point_in_time(text, TIME)
    return None

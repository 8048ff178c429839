"""One shard task, run by anyone: idempotent, since the names of the files tell what is done.

OUT/<hash of settings>/part-00000012.parquet        rows that could be made, in the order of the inputs
OUT/<hash of settings>/_state/done/part-00000012    how many, and which could not be read; written after the data
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..runtime.progress import with_progress
from .place import STATE, ShardPlace
from .sources import ShardRow
from .stage import Stage, Unreadable
from .task import ShardTask

if TYPE_CHECKING:
    import pyarrow

DONE = f"{STATE}/done"
MANY = 16
"""Rows of which one at least can be read, or something else is wrong."""
ROW_GROUP = 8192
"""Rows that are held before they are written as one row group."""
UNREADABLE = b"vladapt.unreadable"
"""In the metadata of a Parquet file: what could not be read, so that its marker can be written again."""
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of an object, in a reason of Python's: another one in each run."""
KILLED = "the process that read it died, twice"


@dataclass(frozen=True)
class Work:
    """What each worker is told once.

    Args:
        stage: what is made of rows.
        place: the folder of these settings.
        batch_size: rows through a model at once.
        threads: that a worker may decode with; None for one per core.
    """

    stage: Stage
    place: ShardPlace
    batch_size: int
    threads: int | None = None


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Args:
        rows: written.
        unreadable: (id, reason) of the others.
        before: whether it was done already.
    """

    rows: int
    unreadable: tuple[tuple[str, str], ...] = ()
    before: bool = False

    def as_json(self) -> bytes:
        return json.dumps({"rows": self.rows, "unreadable": self.unreadable}, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, content: bytes) -> ShardReport:
        facts = json.loads(content)
        return cls(int(facts["rows"]), tuple((str(id_), str(why)) for id_, why in facts["unreadable"]), True)


def run_shard(work: Work, state: Any, task: ShardTask) -> ShardReport:
    """Make the file of a task, unless it is there. A probe makes none.

    Args:
        state: of `work.stage.start`.

    Raises:
        DataError: an input or the place cannot be read or written, or an id occurs twice. What a stage raises passes.
    """
    unreadable: list[Unreadable] = []
    made = _tables(work, state, task, unreadable)
    if task.probe is not None:
        return ShardReport(sum(map(len, made)))
    if (report := done_before(work.place, task.name)) is not None:
        return report
    with work.place.temporary() as partial:
        rows = _write(work, made, unreadable, str(partial))
        if not rows and len(unreadable) >= MANY:  # a disk that is gone, a decoder that is missing
            raise DataError(f"{task.name}: none of its {len(unreadable)} rows can be read ({unreadable[0].reason})")
        report = ShardReport(rows, tuple((each.id, each.reason) for each in unreadable))
        if not work.place.publish(partial, f"{task.name}.parquet"):  # another driver was quicker: its file counts
            return done_before(work.place, task.name) or report
    work.place.create(f"{DONE}/{task.name}", report.as_json())
    return report


def done_before(place: ShardPlace, name: str) -> ShardReport | None:
    """What was reported of a shard that is done; of one whose worker was killed between file and marker, what its file
    says, and the marker is written."""
    content = place.read(f"{DONE}/{name}")
    if content is not None:
        try:
            return ShardReport.from_json(content)
        except (ValueError, KeyError, TypeError):  # cut off by a power cut
            place.remove(f"{DONE}/{name}")
    if not place.exists(f"{name}.parquet"):
        return None
    report = _report_in(place, f"{name}.parquet")
    if report is not None:
        place.create(f"{DONE}/{name}", report.as_json())
    return report


def _report_in(place: ShardPlace, name: str) -> ShardReport | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = place.read(name)
    try:
        metadata = pq.read_metadata(pa.BufferReader(content or b""))
        unreadable = json.loads((metadata.metadata or {})[UNREADABLE])
    except (pa.ArrowException, ValueError, KeyError):  # not whole: a file system without links, or a power cut
        place.remove(name)
        return None
    return ShardReport(metadata.num_rows, tuple(map(tuple, unreadable)), True)


def _write(work: Work, tables: Iterator[pyarrow.Table], unreadable: list[Unreadable], path: str) -> int:
    """Settings of the writer are fixed, and nothing is written that changes from run to run."""
    import pyarrow.parquet as pq

    schema, rows = work.stage.schema, 0
    texts = [field.name for field in schema if str(field.type) in ("string", "large_string")]
    with work.place.reached():
        writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts)
    try:
        for table in tables:
            with work.place.reached():
                writer.write_table(table, row_group_size=ROW_GROUP)
            rows += len(table)
        writer.add_key_value_metadata({UNREADABLE: json.dumps(unreadable, ensure_ascii=False)})
    finally:
        with work.place.reached():
            writer.close()
    return rows


def _tables(work: Work, state: Any, task: ShardTask, unreadable: list[Unreadable]) -> Iterator[pyarrow.Table]:
    """Tables of about `ROW_GROUP` rows; what has none is added to `unreadable`, in the order of the rows."""
    import pyarrow as pa

    def joined() -> pa.Table:
        return pa.concat_tables(held).combine_chunks().cast(work.stage.schema)

    held: list[pa.Table] = []
    counted = all(span.stop is not None for span in task.spans)  # a tar is counted by reading all of it
    rows = with_progress(_rows(work, task, unreadable), "rows", len(task) if counted else None)
    for made in work.stage.run(state, rows, work.batch_size):
        if isinstance(made, Unreadable):
            unreadable.append(Unreadable(made.id, ADDRESS.sub("", made.reason)))
            continue
        held.append(pa.Table.from_batches([made]) if isinstance(made, pa.RecordBatch) else made)
        if sum(map(len, held)) >= ROW_GROUP:
            yield joined()
            held.clear()
    if held:
        yield joined()
    if next(rows, None) is not None:
        raise DataError(f"stage '{work.stage.name}': left rows of {task.name} unread; make something of each")


def _rows(work: Work, task: ShardTask, unreadable: list[Unreadable]) -> Iterator[ShardRow]:
    """The rows of a task; those to be passed over, and those that the source has lost, are added to `unreadable`."""
    first, last = task.probe or (0, None)
    position, ids = 0, set()
    for span in task.spans:
        size = None if span.stop is None else span.stop - span.start
        if size is not None and position + size <= first:
            position += size
            continue
        for row in span.source.read(span.start, span.stop, work.stage.columns):
            if last is not None and position >= last:
                return
            if row.id in ids:
                raise DataError(f"{span.source.label}: the id {row.id!r} occurs twice; make the ids unique")
            ids.add(row.id)
            if position in task.skip:
                unreadable.append(Unreadable(row.id, KILLED))
            elif row.lost:
                unreadable.append(Unreadable(row.id, row.lost))
            elif position >= first:
                yield row
            position += 1

"""An index being changed in its place: segments are written beside those that are there, and then one file, the head,
is replaced. Killed at any moment, a change leaves the index as it was; the next one removes what it left.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from .build import check_shape, locked, written_to
from .columns import rows_with
from .entries import ENTRIES, OFFSETS, Entry
from .head import SEGMENTS, WORK, IndexInfo, file_facts, read_head, synced, write_head
from .index import RetrievalIndex
from .segments import OLD_VECTORS, PART_COUNTS, PARTS, Segment
from .wanted import Facts
from .writing import SegmentsWriter

LIVE = "live-{}.bits"
AT_ONCE = 16384
TRAINED_AGAIN = 4
"""A quantiser is trained again where an index has so many times more rows than it was trained for, or fewer."""


class IndexChange:
    """The one process that changes an index. A context manager.

        with IndexChange("photos.index") as change:
            change.add(rows, entries)
            change.append(made_of=["new_photos"], skipped=[])

    Args:
        path: of the index.
        graph_threads: as of `kinds.built`.

    Attributes:
        opened: the index, as it was before the change.

    Raises:
        ConfigError: another process is changing it. DataError: no index there, or a damaged one.
    """

    def __init__(self, path: str | Path, graph_threads: int = 1):
        self.path, self.graph_threads = Path(path), graph_threads
        read_head(self.path)
        self._lock = locked(self.path)
        self._writer: SegmentsWriter | None = None
        try:
            self.opened = RetrievalIndex.open(self.path)
            self._remove_leftovers()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> IndexChange:
        return self

    def __exit__(self, *error) -> None:
        if self._writer is not None and read_head(self.path) == self.opened.info:  # it names none of its segments
            self._writer.discard()
        self._lock.close()

    def add(self, rows: np.ndarray, entries: Sequence[Entry], parts: Sequence[np.ndarray] = ()) -> None:
        """Append rows; arguments and errors as of `IndexBuilder.add`."""
        info = self.opened.info
        check_shape(rows, entries, info.dims)
        if bool(parts) != self.opened.segments[0].has_parts:
            what = "features of parts" if parts else "no features of parts"
            raise DataError(f"{self.path}: was made by another method than what is added, which has {what}")
        with written_to(self.path):
            self.segments.add(rows, entries, parts)

    @property
    def segments(self) -> SegmentsWriter:
        """What writes those that are added."""
        if self._writer is None:
            self._writer = self._new_segments(self.opened.quantiser, Facts(self.opened.info.about))
        return self._writer

    def append(self, made_of: Sequence[str], skipped: Sequence[Any]) -> None:
        """Publish what was added; nothing happens where nothing was.

        Args:
            made_of, skipped: paths that were given, and (id, reason) of what could not be read, for the head.
        """
        if self._writer is None or not self._writer.count:
            return
        info = self.opened.info
        with written_to(self.path):
            new = self._writer.finish()
        about = {"about": about} if (about := self._writer.facts.summary()) else {}
        self._publish(
            {
                **info,
                **about,
                "segments": [*info.segments, *new],
                "entries": info.entries + self._writer.count,
                **_listed(info, "made_of", made_of),
                **_listed(info, "skipped", skipped),
            }
        )

    def delete(self, ids: Collection[str]) -> int:
        """Delete the entries of some ids. Their rows stay on disk until `compact`, and are found no more.

        Returns:
            How many entries.

        Raises:
            DataError: an id is of no entry, or no entry would be left.
        """
        opened, missing = self.opened, set(ids)
        chosen = [rows_with(each.columns, each.entries, ids) & each.live for each in opened.segments]
        for segment, rows in zip(opened.segments, chosen):
            missing -= {segment.entries[int(row)].id for row in np.flatnonzero(rows)}
        if missing:
            first = next(each for each in ids if each in missing)
            others = f" (and {len(missing) - 1} more)" * (len(missing) > 1)
            raise DataError(f"--delete {first}: not in {self.path}{others}; nothing was deleted")
        deleted = sum(int(rows.sum()) for rows in chosen)
        if deleted == len(opened):
            raise DataError(f"{self.path}: --delete would leave no entry; remove the folder instead")
        records: list[dict[str, Any]] = []
        try:
            with written_to(self.path):
                for segment, rows in zip(opened.segments, chosen):
                    left = segment.live & ~rows
                    if left.any():
                        live = {"live": _written_bits(segment, left)} if rows.any() else {}
                        records.append({**segment.record, **live})
            self._publish({**opened.info, "segments": records, "entries": len(opened) - deleted})
        except BaseException:
            self._remove_leftovers()
            raise
        return deleted

    def compact(self) -> bool:
        """Write all entries that are not deleted into as few segments as there can be. A shared quantiser is trained
        again where the index has grown, or shrunk, to `TRAINED_AGAIN` times what it was trained for.

        Returns:
            Whether there was anything to do.

        Raises:
            DataError: a file is damaged, or nothing can be written.
        """
        opened, info = self.opened, self.opened.info
        if len(opened.segments) == 1 and not opened.segments[0].deleted and info.segments[0]["name"]:
            return False
        opened.verify()
        trained_for = info.quantiser.get("rows") or 1
        grown = max(len(opened) / trained_for, trained_for / len(opened)) >= TRAINED_AGAIN
        self._writer = self._new_segments(None if grown else opened.quantiser, Facts())
        with written_to(self.path):
            for segment in opened.segments:
                live = np.flatnonzero(segment.live)
                for start in range(0, len(live), AT_ONCE):
                    rows = live[start : start + AT_ONCE]
                    parts = segment.parts(rows.tolist()) if segment.has_parts else ()
                    self._writer.add(segment.rows(rows), [segment.entries[int(row)] for row in rows], parts)
            segments = self._writer.finish()
        quantiser = {"quantiser": self._writer.quantiser} if self._writer.quantiser else {}
        about = {"about": about} if (about := self._writer.facts.summary()) else {}
        self._publish({**info, **quantiser, **about, "segments": segments})
        return True

    def _new_segments(self, quantiser: Any, facts: Facts) -> SegmentsWriter:
        info = self.opened.info
        last = max(int(record["name"] or "0", 16) for record in info.segments)
        return SegmentsWriter(self.path, info.kind, info.dims, quantiser, facts, last + 1, self.graph_threads)

    def _publish(self, info: Mapping[str, Any]) -> None:
        """Replace the head, and remove what the new one does not name.

        Raises:
            ConfigError: another process has replaced it meanwhile, where the file system has no locks.
        """
        if read_head(self.path) != self.opened.info:
            raise ConfigError(f"{self.path}: another process has changed this index meanwhile; run the command again")
        with written_to(self.path):
            write_head(self.path, info)
            self._writer = None  # from here on its segments are those of the index
            synced(self.path)
        self.opened = RetrievalIndex.open(self.path)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """Remove segments and files that the head does not name."""
        info = read_head(self.path)
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        records = {record["name"]: record for record in info.segments}
        for folder in (self.path / SEGMENTS).glob("*"):
            if folder.name not in records:
                shutil.rmtree(folder, ignore_errors=True)
        named = {info.quantiser.get("file")}
        named |= {f"{name}/{(record.get('live') or {}).get('file')}".lstrip("/") for name, record in records.items()}
        shared = [*self.path.glob("quantiser-*.faiss"), *self.path.glob("live-*.bits")]
        for path in (*shared, *(self.path / SEGMENTS).glob("*/live-*.bits")):
            name = path.name if path.parent == self.path else f"{path.parent.name}/{path.name}"
            if name not in named:
                path.unlink(missing_ok=True)
        if "" not in records:
            for name in (OLD_VECTORS, ENTRIES, OFFSETS, PARTS, PART_COUNTS):
                (self.path / name).unlink(missing_ok=True)


def _written_bits(segment: Segment, live: np.ndarray) -> dict[str, Any]:
    """Write which rows of a segment are not deleted; returns the record of the file."""
    path = segment.path / LIVE.format(int(live.sum()))
    np.packbits(live, bitorder="little").tofile(path)
    synced(path)
    return {"file": path.name, "rows": int(live.sum()), **file_facts(path)}


def _listed(info: IndexInfo, name: str, more: Sequence[Any]) -> dict[str, Any]:
    """A list of the head with more in it, and how many there are in all where it lists only the first."""
    before = [list(each) if isinstance(each, tuple) else each for each in info.get(name) or ()]
    new = [list(each) if isinstance(each, tuple) else each for each in more]
    listed = [*before, *(each for each in new if each not in before)]
    total = info.get(f"all_{name}")
    return {name: listed, **({} if total is None else {f"all_{name}": total + len(more)})}

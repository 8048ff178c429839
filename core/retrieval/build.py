"""An index being written: rows come a few at a time, and the folder appears when it is whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..data.nearest import faiss_library
from ..errors import ConfigError, DataError
from ..runtime.files import MARKER, claimed, remove_abandoned, writing_to
from .entries import Entry
from .head import HEAD, write_head
from .kinds import KINDS
from .writing import SegmentsWriter

OLD = "-old"
LOCK = ".lock"
"""Held by the process that changes an index, or is to put another in its place."""


class IndexBuilder:
    """Writes an index into a new folder, or over an index that was there. A context manager.

        with IndexBuilder(out, dims=512, kind="flat") as builder:
            builder.add(rows, entries)
            builder.finish({"backbone": ...})

    Left without `finish`, nothing is there that was not there before.

    Args:
        out: the folder.
        dims: D.
        kind: a key of `KINDS`.
        graph_threads: as of `kinds.built`.

    Attributes:
        segments: what writes them.

    Raises:
        ConfigError: no such kind, or another process is changing the index there. DataError: the folder holds something
        else, or cannot be written. CapabilityError: faiss is not installed.
    """

    def __init__(self, out: str | Path, *, dims: int, kind: str = "flat", graph_threads: int = 1):
        if kind not in KINDS:
            raise ConfigError(f"--kind {kind}: give one of {', '.join(KINDS)}")
        faiss_library()
        self.out, self.dims, self.kind = Path(out), dims, kind
        _check_free(self.out)
        self._place = self.out.resolve()  # a link to a folder stays one
        self._lock = locked(self._place) if (self._place / HEAD).is_file() else None
        self._made = [folder for folder in self._place.parents if not folder.exists()]
        self._folder = self._place.with_name(f"{_mark(self._place)}{secrets.token_hex(4)}")
        with writing_to(f"--out {self.out}"):
            self._folder.mkdir(parents=True)
            self._claim = claimed(self._folder / MARKER)
        self.segments = SegmentsWriter(self._folder, kind, dims, graph_threads=graph_threads)

    def add(self, rows: np.ndarray, entries: Sequence[Entry], parts: Sequence[np.ndarray] = ()) -> None:
        """Append rows (n, D), unit, float32, and what is known of each.

        Args:
            parts: for each of all rows, or for none, (T, D) float32 features of its parts.

        Raises:
            DataError: they cannot be written.
        """
        check_shape(rows, entries, self.dims)
        with written_to(self.out):
            self.segments.add(rows, entries, parts)

    def finish(self, facts: dict[str, Any]) -> Path:
        """Build the index and put the folder in its place.

        Args:
            facts: JSON-able, into index.json: the backbone, what was indexed, when, with which versions.

        Raises:
            DataError: no row was added, or nothing can be written there.
        """
        if not (rows := self.segments.count):
            raise DataError(f"--out {self.out}: nothing to index; give images or texts that can be read")
        with written_to(self.out):
            head: dict[str, Any] = {"kind": self.kind, "dims": self.dims, "entries": rows}
            segments = self.segments.finish()
            head |= {"quantiser": self.segments.quantiser} if self.segments.quantiser else {}
            head |= {"about": about} if (about := self.segments.facts.summary()) else {}
            write_head(self._folder, {**head, **facts, "segments": segments})
            self._publish()
            (self._place / MARKER).unlink()
        self._remove_leftovers()
        return self.out

    def discard(self) -> None:
        """Take away what is unfinished; after `finish` there is nothing to do."""
        for file in (self._claim, self._lock):
            if file is not None:
                file.close()
        if not self._folder.exists():
            return
        self.segments.discard()
        shutil.rmtree(self._folder, ignore_errors=True)
        for folder in self._made:
            with suppress(OSError):  # others have put something there meanwhile
                folder.rmdir()

    def __enter__(self) -> IndexBuilder:
        return self

    def __exit__(self, *error) -> None:
        self.discard()

    def _remove_leftovers(self) -> None:
        """What killed builds left beside the index, and indices that they were putting aside."""
        left = list(self._place.parent.glob(f"{_mark(self._place)}*"))
        put_aside = [folder for folder in left if folder.name.endswith(OLD)]
        remove_abandoned([folder for folder in left if folder not in put_aside], MARKER)
        for folder in put_aside:
            if not folder.with_name(folder.name.removesuffix(OLD)).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _publish(self) -> None:
        """Swap folders: an index that was there stays until the new one is whole."""
        old = self._folder.with_name(f"{self._folder.name}{OLD}")
        try:
            if self._place.exists():
                os.replace(self._place, old)
            os.replace(self._folder, self._place)
        except BaseException:  # Ctrl-C between the two as well
            if old.exists() and not self._place.exists():
                os.replace(old, self._place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def locked(folder: Path, index: Path | None = None) -> IO[bytes]:
    """The lock of an index, held as long as the handle is open.

    Args:
        folder: that holds the lock.
        index: where the folder is not the index itself, but what becomes it.

    Raises:
        ConfigError: another process holds it. DataError: nothing can be written there.
    """
    try:
        return claimed(folder / LOCK)
    except BlockingIOError:
        raise ConfigError(f"{index or folder}: another process is changing this index; wait for it to end") from None
    except OSError as error:
        raise DataError.unwritable(f"--out {folder}", error) from error


@contextmanager
def written_to(out: Path) -> Iterator[None]:
    """A block in which an index is written.

    Raises:
        DataError: the file system refuses.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # faiss raises RuntimeError where it cannot write
        raise DataError.unwritable(f"--out {out}", error) from error


def check_shape(rows: np.ndarray, entries: Sequence[Entry], dims: int) -> None:
    """Refuse rows that are no (n, D) for n entries."""
    if rows.shape != (len(entries), dims):
        raise DataError(f"rows {rows.shape} for {len(entries)} entries; ({len(entries)}, {dims}) is needed")


def _check_free(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"--out {out}: a file, not a folder; give the folder that is to hold the index")
    if not (out / HEAD).is_file() and any(out.iterdir()):
        raise DataError(f"--out {out}: holds something other than an index; give a new folder")


def _mark(out: Path) -> str:
    return f".{out.name}.unfinished-"

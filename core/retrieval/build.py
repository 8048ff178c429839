"""An index being written: rows come a few at a time, and the folder appears when it is whole.

Besides the finished index, which faiss builds in memory, memory does not grow with the number of rows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ..data.nearest import faiss_library
from ..errors import ConfigError, DataError
from ..runtime.files import MARKER, claimed, remove_abandoned, writing_to
from ..runtime.reading import json_text
from .entries import ENTRIES, OFFSETS, Entry, EntryWriter
from .kinds import KINDS, built
from .wanted import Facts

FORMAT = 1
FACTS, VECTORS_FILE = "index.json", "index.faiss"
FILES = (VECTORS_FILE, ENTRIES, OFFSETS)
PARTS, PART_COUNTS = "parts.f32", "parts.counts"
"""Features of the parts of each entry, and how many it has, where candidates are ranked again by these."""
CHUNK_BYTES = 1 << 22
OLD = "-old"


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

    Raises:
        ConfigError: no such kind. DataError: the folder holds something else, or cannot be written.
        CapabilityError: faiss is not installed.
    """

    def __init__(self, out: str | Path, *, dims: int, kind: str = "flat"):
        if kind not in KINDS:
            raise ConfigError(f"--kind {kind}: give one of {', '.join(KINDS)}")
        faiss_library()
        self.out, self.dims, self.kind = Path(out), dims, kind
        _check_free(self.out)
        self._place = self.out.resolve()  # a link to a folder stays one
        self._made = [folder for folder in self._place.parents if not folder.exists()]
        self._folder = self._place.with_name(f"{_mark(self._place)}{secrets.token_hex(4)}")
        with writing_to(f"--out {self.out}"):
            self._folder.mkdir(parents=True)
            self._claim = claimed(self._folder / MARKER)
            self._entries, self._facts = EntryWriter(self._folder), Facts()
            self._vectors = (self._folder / "vectors").open("wb")
        self._parts: tuple[Any, ...] = ()

    def add(self, rows: np.ndarray, entries: Sequence[Entry], parts: Sequence[np.ndarray] = ()) -> None:
        """Append rows (n, D), unit, float32, and what is known of each.

        Args:
            parts: for each of all rows, or for none, (T, D) float32 features of its parts.

        Raises:
            DataError: they cannot be written.
        """
        if rows.shape != (len(entries), self.dims):
            raise DataError(f"rows {rows.shape} for {len(entries)} entries; ({len(entries)}, {self.dims}) is needed")
        with writing_to(f"--out {self.out}"):
            self._vectors.write(np.ascontiguousarray(rows, "<f4"))
            self._entries.add(entries)
            for entry in entries:
                self._facts.add(entry)
            if parts and not self._parts:
                self._parts = tuple((self._folder / name).open("wb") for name in (PARTS, PART_COUNTS))
            for some in parts:
                self._parts[0].write(np.ascontiguousarray(some, "<f4"))
                self._parts[1].write(np.array(len(some), "<u4").tobytes())

    def finish(self, facts: dict[str, Any]) -> Path:
        """Build the index and put the folder in its place.

        Args:
            facts: JSON-able, into index.json: the backbone, what was indexed, when, with which versions.

        Raises:
            DataError: no row was added, or nothing can be written there.
        """
        rows = self._entries.count
        if not rows:
            raise DataError(f"--out {self.out}: nothing to index; give images or texts that can be read")
        try:
            self._vectors.close()
            self._entries.close()
            for file in self._parts:
                file.close()
            index = built(self.kind, self._folder / "vectors", rows, self.dims)
            (self._folder / "vectors").unlink()
            faiss_library().write_index(index, str(self._folder / VECTORS_FILE))
            names = (*FILES, *((PARTS, PART_COUNTS) if self._parts else ()))
            written = {name: facts_of(self._folder / name) for name in names}
            of_index = {"format": FORMAT, "vladapt": __version__, "kind": self.kind, "dims": self.dims, "entries": rows}
            of_index |= {"about": about} if (about := self._facts.summary()) else {}
            text = json_text({**of_index, **facts, "files": written}, indent=2)
            (self._folder / FACTS).write_text(text + "\n", encoding="utf-8")
            self._publish()
            (self._place / MARKER).unlink()
        except (OSError, RuntimeError) as error:  # faiss raises RuntimeError where it cannot write
            raise DataError.unwritable(f"--out {self.out}", error) from error
        self._remove_leftovers()
        return self.out

    def discard(self) -> None:
        """Take away what is unfinished; after `finish` there is nothing to do."""
        for file in (self._vectors, self._entries, self._claim, *self._parts):
            with suppress(OSError):  # a full disk shows once more when a file is closed; the error says so
                file.close()
        if not self._folder.exists():
            return
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
        if self._place.exists():
            os.replace(self._place, old)
        try:
            os.replace(self._folder, self._place)
        except OSError:
            if old.exists():
                os.replace(old, self._place)
            raise
        shutil.rmtree(old, ignore_errors=True)


def facts_of(path: Path) -> dict[str, int]:
    """{"bytes", "crc32"} of a file, by which damage is found out."""
    crc = size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return {"bytes": size, "crc32": crc}


def _check_free(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"--out {out}: a file, not a folder; give the folder that is to hold the index")
    if not (out / FACTS).is_file() and any(out.iterdir()):
        raise DataError(f"--out {out}: holds something other than an index; give a new folder")


def _mark(out: Path) -> str:
    return f".{out.name}.unfinished-"

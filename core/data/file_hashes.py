"""What files hold, as sha256, remembered by path and version, so that no command reads a file that has not changed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..runtime.files import cache_refused
from ..runtime.process import cache_folder
from ..runtime.reading import is_settled, sha256_of, version_of, why_not_regular

MEMORIES = 256
FileKey = tuple[str, int, int, int, int]
"""Absolute path and `version_of` of a file."""


@dataclass(eq=False)
class FileHashes:
    """sha256 of files, remembered by path and `version_of` in append-only files that processes and threads may share:
    one of `MEMORIES`, by the folder that a file lies in, which is read when a file of that folder is asked for.

    A file whose next change might not show is remembered by this object alone. What older versions remembered in one
    file is divided once.

    Args:
        root: folder of the memories' folder; by default that of the cache.

    Attributes:
        seen: file as it was named -> its digest when it was last asked for, which the same command may go by.
    """

    root: str | Path = field(default_factory=cache_folder)
    seen: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    _memories: dict[Path, dict[FileKey, str]] = field(default_factory=dict, init=False, repr=False)
    # threads that read a memory each for itself would forget what others add
    _loading: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The folder of the memories."""
        return Path(self.root) / "file-hashes"

    def sha256(self, path: str | Path, status: os.stat_result | None = None) -> str:
        """Hex digest of a file's bytes.

        Args:
            path: the file.
            status: of `os.stat`, where it was asked for before.

        Raises:
            DataError: the file cannot be read, or the memory cannot be written.
        """
        try:
            status = os.stat(path) if status is None else status
            if (reason := why_not_regular(status)) is not None:
                raise DataError(f"{path}: cannot be read ({reason}); check the file")
            key = _identity(path, status)
            digests = self._memory(memory_of(self.path, key[0]))
            if key not in digests:
                lasts = is_settled(status)  # before it is read: what is written meanwhile must show
                digests[key] = sha256_of(path)
                if lasts:
                    _append(memory_of(self.path, key[0]), {key: digests[key]})
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
        self.seen[str(path)] = digests[key]
        return digests[key]

    def remembered(self, path: str | Path) -> str | None:
        """As `sha256`, None where the file would have to be read."""
        try:
            key = _identity(path, os.stat(path))
        except (OSError, ValueError):
            return None
        digest = self._memory(memory_of(self.path, key[0])).get(key)
        if digest is not None:
            self.seen[str(path)] = digest
        return digest

    @staticmethod
    def of_file(path: str | Path) -> str:
        """As `sha256`, of the memory in the usual place, which a process reads once.

        What is derived from a file and kept in the cache is named by it: a file that was moved or touched is read once
        more, and nothing is derived anew.
        """
        return _hashes_below(cache_folder()).sha256(path)

    @staticmethod
    def of_files(paths: Iterable[str | Path]) -> str:
        """Of the bytes of several files in their order, whatever they are called: `Item.decode["digest"]` of a sample
        that is made of them."""
        return hashlib.sha256("\n".join(map(FileHashes.of_file, paths)).encode()).hexdigest()

    def _memory(self, file: Path) -> dict[FileKey, str]:
        with self._loading:
            if not self._memories:
                _divide(self.path)
            if file not in self._memories:
                self._memories[file] = read_records(file)
            return self._memories[file]


def memory_of(folder: Path, path: str) -> Path:
    """The memory in a folder of memories that a file by its absolute path is remembered in."""
    number = zlib.crc32(os.path.dirname(path).encode(errors="surrogatepass")) % MEMORIES
    return folder / f"{number:02x}.jsonl"


def read_records(file: Path) -> dict[FileKey, str]:
    """What a memory holds; damaged lines are left out, and their files hashed again.

    Raises:
        CacheError: it cannot be read.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise cache_refused(file, error) from error
    lines = [line for line in lines if line]
    try:  # one call for all lines takes a tenth of the time
        records = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        records = []
    if len(records) != len(lines):
        records = map(_parsed, lines)
    return {tuple(record[:-1]): record[-1] for record in records if _is_record(record)}


@lru_cache(maxsize=1)
def _hashes_below(root: Path) -> FileHashes:
    return FileHashes(root)


def _identity(path: str | Path, status: os.stat_result) -> FileKey:
    """What a file is remembered by."""
    return os.path.abspath(path), *version_of(status)


def _divide(folder: Path) -> None:
    """Give each memory its records of the one file of older versions. Whoever takes that file away first does it; what
    is lost where that is interrupted is hashed again."""
    taken = folder.with_name(f"{folder.name}-{secrets.token_hex(8)}.jsonl")
    with suppress(OSError):  # there is none; or nobody may write there, and files are hashed again
        os.replace(folder.with_suffix(".jsonl"), taken)
        by_memory: dict[Path, dict[FileKey, str]] = defaultdict(dict)
        for key, digest in read_records(taken).items():
            by_memory[memory_of(folder, key[0])][key] = digest
        for file, records in by_memory.items():
            _append(file, records)
        taken.unlink()


def _append(file: Path, records: Mapping[FileKey, str]) -> None:
    # The newline leads, so that a record cut short by a crash never spoils the one after it; one write in append mode,
    # so that two processes never mix their lines.
    content = "".join("\n" + json.dumps([*key, digest]) for key, digest in records.items()).encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cache_refused(file, error) from error


def _parsed(line: bytes) -> Any:
    """None for a damaged line."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_record(record: Any) -> bool:
    """Whether it is [path, size, mtime_ns, inode, ctime_ns, digest]."""
    return (
        isinstance(record, list)
        and [type(value) for value in record] == [str, int, int, int, int, str]
        and len(record[-1]) == 64
    )

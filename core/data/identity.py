"""What a sample is, told from its bytes: file hashes that are remembered, and the key of one sample's content."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

from ..contracts.domain import Item
from ..errors import DataError

CHUNK_BYTES = 1 << 20


class FileHashes:
    """sha256 of files, remembered by (path, size, mtime) in an append-only file that processes and threads may share.

    Args:
        root: folder of the memory; by default $VLADAPT_CACHE, else ~/.cache/vladapt.
    """

    def __init__(self, root: str | Path | None = None):
        default = os.environ.get("VLADAPT_CACHE") or Path.home() / ".cache" / "vladapt"
        self.path = Path(root or default) / "file-hashes.jsonl"
        self._known: dict[tuple[str, int, int], str] | None = None
        self._loading = threading.Lock()  # threads that read the memory each for itself would forget what others add

    def sha256(self, path: str | Path) -> str:
        """Hex digest of a file's bytes.

        Raises:
            DataError: the file cannot be read, or the memory cannot be written.
        """
        with self._loading:
            if self._known is None:
                self._known = _read_records(self.path)
        try:
            stat = os.stat(path)
            key = (os.path.abspath(path), stat.st_size, stat.st_mtime_ns)
            if key not in self._known:
                self._remember(key, _hash_file(path))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
        return self._known[key]

    def _remember(self, key: tuple[str, int, int], digest: str) -> None:
        self._known[key] = digest
        # The newline leads, so that a record cut short by a crash never spoils the one after it; one write in append
        # mode, so that two processes never mix their lines.
        record = ("\n" + json.dumps([*key, digest])).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, record)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror}); free some space or point VLADAPT_CACHE elsewhere"
            ) from error


def content_key(item: Item, hashes: FileHashes) -> str:
    """Hex sha256 of what one sample shows: its file's bytes and which part of them is meant.

    `item.decode["digest"]`, where a reader gives one (a row of an array file), replaces the file's hash.

    Raises:
        DataError: the file cannot be read.
    """
    digest = item.decode.get("digest") or hashes.sha256(item.source)
    return hashlib.sha256(f"{digest}\n{part_text(item)}".encode()).hexdigest()


def part_text(item: Item) -> str:
    """Which part of its file an item is, as canonical JSON."""
    part = {key: value for key, value in item.decode.items() if key != "digest"}
    return json.dumps(part, sort_keys=True, separators=(",", ":"))


def _hash_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _read_records(path: Path) -> dict[tuple[str, int, int], str]:
    if not path.is_file():
        return {}
    records = (_record(line) for line in path.read_bytes().split(b"\n"))
    return {(record[0], record[1], record[2]): record[3] for record in records if record}


def _record(line: bytes) -> list | None:
    """[path, size, mtime_ns, digest], or None for a blank or damaged line: the file is then hashed again."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    sound = isinstance(record, list) and [type(value) for value in record] == [str, int, int, str]
    return record if sound and len(record[3]) == 64 else None

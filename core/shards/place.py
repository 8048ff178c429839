"""Where shards are written: a folder on a disk, or a prefix of an object store.

A file is there whole or not at all, and who writes it first is the one that did.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..runtime.files import PARTIAL, claimed, remove_abandoned_partials, sync_folder
from ..runtime.remote import failure, filesystem, is_url, printed_name

STATE = "_state"
"""Markers, lists and temporary files: readers of folders of Parquet pass over names that begin so."""
WRITABLE = ("s3", "s3a", "gs", "gcs")
"""Object stores that create a file only where there is none."""


class PlaceError(DataError):
    """Nothing can be written or read there: no fault of an input."""


@dataclass(frozen=True)
class ShardPlace:
    """A folder of results; a worker on any machine makes its own of the same `root`.

    Args:
        root: path or URL.
    """

    root: str

    def __str__(self) -> str:
        return printed_name(self.root)

    def check(self) -> None:
        """Raise the ConfigError of a URL that cannot hold shards, the PlaceError of a folder that cannot be made."""
        if self._is_url:
            scheme = self.root.partition("://")[0].lower()
            if scheme not in WRITABLE:
                raise ConfigError(f"--out {self}: shards are written to folders, s3:// and gs://; give one of these")
            with self.reached():
                self._remote("")[0].exists(self._remote("")[1])
            return
        with self.reached():
            Path(self.root).mkdir(parents=True, exist_ok=True)

    def below(self, name: str) -> ShardPlace:
        """A folder in it."""
        return ShardPlace(f"{self.root.rstrip('/')}/{name}")

    def path(self, name: str) -> str:
        """Of a file in it, as sources take it."""
        return f"{self.root.rstrip('/')}/{name}"

    def exists(self, name: str) -> bool:
        with self.reached():
            if not self._is_url:
                return os.path.exists(self.path(name))
            fs, path = self._remote(name)
            fs.invalidate_cache()
            return fs.isfile(path)

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        with self.reached():
            try:
                if not self._is_url:
                    return Path(self.path(name)).read_bytes()
                fs, path = self._remote(name)
                return fs.cat_file(path)
            except FileNotFoundError:
                return None

    def listed(self, folder: str) -> dict[str, float]:
        """Name -> time of the last change, in seconds, of the files of a folder; none where there is no folder."""
        with self.reached():
            if not self._is_url:
                try:
                    with os.scandir(self.path(folder)) as entries:
                        return {each.name: each.stat().st_mtime for each in entries if _is_whole_file(each)}
                except FileNotFoundError:
                    return {}
            fs, path = self._remote(folder)
            fs.invalidate_cache()
            try:
                infos = fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
            return {info["name"].rpartition("/")[2]: _changed(info) for info in infos if info["type"] == "file"}

    def folders(self) -> list[str]:
        """Names of the folders in it."""
        with self.reached():
            try:
                if not self._is_url:
                    with os.scandir(self.root) as entries:
                        return sorted(each.name for each in entries if each.is_dir())
                fs, path = self._remote("")
                fs.invalidate_cache()
                infos = fs.ls(path, detail=True)
                return sorted(i["name"].rstrip("/").rpartition("/")[2] for i in infos if i["type"] == "directory")
            except (FileNotFoundError, NotADirectoryError):
                return []

    def create(self, name: str, content: bytes) -> bool:
        """Write a file; False where there is one, which stays."""
        if self._is_url:
            return self._create_remote(name, content)
        with self.temporary() as partial:
            with self.reached():
                partial.write_bytes(content)
            return self.publish(partial, name)

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A file on a disk of this machine to write to, removed at the end: on that of the folder itself, so that
        `publish` need not copy it."""
        folder = Path(tempfile.gettempdir()) if self._is_url else Path(self.path(STATE))
        with self.reached():
            folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}"
        with self.reached():
            claim = claimed(partial)
        try:
            yield partial
        finally:
            claim.close()
            with suppress(OSError):
                partial.unlink()

    def publish(self, partial: Path, name: str) -> bool:
        """Put a temporary file in its place, as a whole and on the disk; False where there is one, which stays."""
        if self._is_url:
            return self._create_remote(name, partial.read_bytes())
        with self.reached():
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            created = _linked(partial, target)
            sync_folder(target.parent)
            return created

    def remove(self, name: str) -> None:
        """A file that need not be there."""
        with self.reached(), suppress(FileNotFoundError):
            if not self._is_url:
                return os.unlink(self.path(name))
            fs, path = self._remote(name)
            fs.rm_file(path)

    def remove_stale(self) -> None:
        """Remove what killed processes left half-written."""
        if not self._is_url and os.path.isdir(self.path(STATE)):
            remove_abandoned_partials(Path(self.path(STATE)))

    @property
    def _is_url(self) -> bool:
        return is_url(self.root)

    def _remote(self, name: str) -> tuple[Any, str]:
        fs, path = filesystem(self.root)
        return fs, f"{path.rstrip('/')}/{name}".rstrip("/")

    def _create_remote(self, name: str, content: bytes) -> bool:
        with self.reached():
            fs, path = self._remote(name)
            try:
                fs.pipe_file(path, content, mode="create")
                return True
            except FileExistsError:
                return False

    @contextmanager
    def reached(self) -> Iterator[None]:
        """A context in which what goes wrong is of this place: a PlaceError."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # each object store has errors of its own
            if not self._is_url:
                if isinstance(error, OSError):
                    raise PlaceError.unwritable(self, error) from error
                raise
            raise PlaceError(str(failure(self.root, error))) from error


def _is_whole_file(entry: os.DirEntry) -> bool:
    return not entry.name.startswith(PARTIAL) and entry.is_file()


def _linked(partial: Path, target: Path) -> bool:
    try:
        os.link(partial, target)
        return True
    except FileExistsError:
        return False
    except OSError:  # a file system without links: two who write the same bytes at once write the same bytes
        if target.exists():
            return False
        os.replace(partial, target)
        return True


def _changed(info: dict[str, Any]) -> float:
    when = info.get("LastModified") or info.get("mtime") or info.get("updated") or 0.0
    if isinstance(when, str):
        from datetime import datetime

        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return when.timestamp() if hasattr(when, "timestamp") else float(when)

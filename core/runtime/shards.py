"""Feature rows by key on disk: append-only shards that are written whole, checked when read, merged when many.

A shard is one safetensors file: `keys` (n, 32) uint8, `features` (n, D) float32, and the sha256 of both in its header.
Shards never change, so processes need no locks: each adds its own, and a key found in two has the same row in both.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import DataError
from .files import cache_refused, remove_stale_partials, write_cached

SUFFIX = ".safetensors"
KEY_BYTES = 32
MERGE_ABOVE = 32
"""Small shards that may gather before they are merged."""
SMALL_ROWS = 4096
SHARD_BYTES = 64_000_000
"""Rows that are held before they are written, and that are merged, are no more than this, or few more."""
WIDE_ROW = 65_536
"""Numbers of a row from which on a checked shard is read row by row: 256 KB."""
RELISTINGS = 3


class _Damaged(Exception):
    """A shard's bytes are not those that were written."""


class ShardFolder:
    """The rows of one space.

    Args:
        path: the folder; need not exist.
        space: text that says what the rows are, kept in each shard for people who look.
    """

    def __init__(self, path: Path, space: str):
        self.path = Path(path)
        self.space = space
        self._index: dict[str, np.ndarray] = {}  # shard name -> its keys (n, 32)
        self._checked: set[str] = set()  # shards of wide rows whose rows were those that were written

    def find(self, wanted: Collection[bytes]) -> Iterator[tuple[list[bytes], np.ndarray]]:
        """Yield, shard by shard, keys found and their rows (k, D) float32; each key once at most.

        Damaged shards are removed and their keys count as not found.
        """
        missing = set(wanted)
        if not missing:
            return
        prefixes = _heads(_packed(list(missing)))
        for _ in range(RELISTINGS):  # another process may merge shards between our listing and our reading
            self._refresh()
            vanished = False
            for name in list(self._index):
                row_of = self._matches(name, missing, prefixes)
                if not row_of:
                    continue
                rows = self._rows(name, list(row_of.values()))
                if rows is None:
                    vanished = True
                    continue
                missing.difference_update(row_of)
                yield list(row_of), rows
            if not vanished or not missing:
                return

    def known(self, wanted: Collection[bytes]) -> set[bytes]:
        """Those of some keys that are stored; no row is read."""
        missing = set(wanted)
        if missing:
            prefixes = _heads(_packed(list(missing)))
            self._refresh()
            for name in self._index:
                missing.difference_update(self._matches(name, missing, prefixes))
        return set(wanted) - missing

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows (n, D) as one shard.

        Raises:
            DataError: it cannot be written.
        """
        packed = _packed(keys)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        header = {"keys_sha256": _digest(packed), "features_sha256": _digest(rows), "space": self.space}
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        content = save({"keys": packed, "features": rows}, metadata={"vladapt": json.dumps(header)})
        write_cached(self.path / name, content)
        self._index[name] = packed

    def merge(self) -> None:
        """Put many small shards into few larger ones. Rows are never missing meanwhile: the new file comes first."""
        self._refresh()
        small = [name for name, keys in self._index.items() if len(keys) < SMALL_ROWS and self._is_light(name)]
        if len(small) <= MERGE_ABOVE:
            return
        remove_stale_partials(self.path)
        batch: dict[str, np.ndarray] = {}
        for name in small:
            rows = self._rows(name)
            if rows is None:
                continue
            batch[name] = rows
            size = sum(each.nbytes for each in batch.values())
            if sum(map(len, batch.values())) >= SMALL_ROWS or size >= SHARD_BYTES:
                self._replace(batch)
                batch = {}
        if len(batch) > 1:
            self._replace(batch)

    def _is_light(self, name: str) -> bool:
        """Whether a shard is far from `SHARD_BYTES`; a vanished one is not."""
        try:
            return (self.path / name).stat().st_size < SHARD_BYTES // 2
        except OSError:
            return False

    def _replace(self, batch: dict[str, np.ndarray]) -> None:
        merged = {key.tobytes(): row for name, rows in batch.items() for key, row in zip(self._index[name], rows)}
        self.append(list(merged), np.stack(list(merged.values())))
        for name in batch:
            self._drop(name)

    def _refresh(self) -> None:
        """Bring the index up to what is on disk; only shards not seen before are opened."""
        if not self.path.is_dir():
            self._index = {}
            return
        try:
            names = sorted(entry.name for entry in os.scandir(self.path) if entry.name.endswith(SUFFIX))
        except OSError as error:
            raise cache_refused(self.path, error) from error
        known, self._index = self._index, {}
        for name in names:
            keys = known.get(name)
            if keys is None:
                try:
                    keys, _ = _read(self.path / name, with_features=False)
                except FileNotFoundError:
                    continue
                except _Damaged:
                    self._drop(name)
                    continue
            self._index[name] = keys

    def _matches(self, name: str, missing: set[bytes], prefixes: np.ndarray) -> dict[bytes, int]:
        """Key -> row of those keys of a shard that are still missing."""
        keys = self._index[name]
        candidates = np.isin(_heads(keys), prefixes).nonzero()[0]  # most keys are ruled out without a Python object
        row_of = {keys[i].tobytes(): int(i) for i in candidates}
        return {key: i for key, i in row_of.items() if key in missing}

    def _rows(self, name: str, wanted: Sequence[int] | None = None) -> np.ndarray | None:
        """(n, D) of a shard, or the wanted rows of it; None, and the shard forgotten, if it is gone or damaged."""
        try:
            if wanted is not None and name in self._checked:
                return _read_some(self.path / name, wanted)
            keys, rows = _read(self.path / name)
            if not np.array_equal(keys, self._index[name]):
                raise _Damaged(name)
            if rows.shape[1] >= WIDE_ROW:
                self._checked.add(name)
        except FileNotFoundError:
            self._index.pop(name, None)
            return None
        except _Damaged:
            self._drop(name)
            return None
        return rows if wanted is None else rows[wanted]

    def _drop(self, name: str) -> None:
        self._index.pop(name, None)
        self._checked.discard(name)
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.path / name}: damaged or merged, and cannot be removed ({error.strerror}); remove it by hand"
            ) from error


class NoShards:
    """In place of a `ShardFolder`, where rows are not to be kept: nothing is found, nothing is written."""

    def find(self, wanted: Collection[bytes]) -> Iterator[tuple[list[bytes], np.ndarray]]:
        return iter(())

    def known(self, wanted: Collection[bytes]) -> set[bytes]:
        return set()

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """The rows are let go."""

    def merge(self) -> None:
        """There is nothing to merge."""


class ShardWriter:
    """Collects computed rows and appends them every so many rows or seconds, so that a killed run loses little.

    Args:
        before: another writer, whose rows are to be on disk before these are.
    """

    def __init__(
        self,
        folder: ShardFolder | NoShards,
        flush_rows: int,
        flush_seconds: float,
        before: ShardWriter | None = None,
    ):
        self.folder, self.flush_rows, self.flush_seconds, self.before = folder, flush_rows, flush_seconds, before
        self._keys: list[bytes] = []
        self._rows: list[np.ndarray] = []
        self._last = time.monotonic()

    def add(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        self._keys.extend(keys)
        self._rows.append(rows)
        full = len(self._keys) >= self.flush_rows or sum(each.nbytes for each in self._rows) >= SHARD_BYTES
        if full or time.monotonic() - self._last >= self.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Store what is there. Rows that cannot be stored are not tried again."""
        if self.before is not None:
            self.before.flush()
        keys, rows, self._keys, self._rows = self._keys, self._rows, [], []
        if keys:
            self.folder.append(keys, np.concatenate(rows))
        self._last = time.monotonic()


def _read(path: Path, with_features: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Checked keys, and features if asked for. Raises FileNotFoundError or _Damaged."""
    try:
        with safe_open(str(path), framework="np") as file:
            header = json.loads((file.metadata() or {}).get("vladapt", "null"))
            keys = file.get_tensor("keys")
            rows = file.get_tensor("features") if with_features else None
    except FileNotFoundError:
        raise
    except (SafetensorError, ValueError, KeyError) as error:
        raise _Damaged(str(path)) from error
    valid = (
        isinstance(header, dict)
        and keys.dtype == np.uint8
        and keys.ndim == 2
        and keys.shape[1] == KEY_BYTES
        and header.get("keys_sha256") == _digest(keys)
    )
    if valid and rows is not None:
        valid = rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == len(keys)
        valid = valid and header.get("features_sha256") == _digest(rows)
    if not valid:
        raise _Damaged(str(path))
    return keys, rows


def _read_some(path: Path, wanted: Sequence[int]) -> np.ndarray:
    """(k, D), some rows of a shard that was checked before. Raises FileNotFoundError or _Damaged."""
    try:
        with safe_open(str(path), framework="np") as file:
            rows = file.get_slice("features")
            return np.concatenate([rows[i : i + 1] for i in wanted])
    except FileNotFoundError:
        raise
    except (SafetensorError, ValueError, KeyError) as error:
        raise _Damaged(str(path)) from error


def _packed(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)


def _heads(keys: np.ndarray) -> np.ndarray:
    """(n, 32) -> (n,) the first eight bytes of each key as a number."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()

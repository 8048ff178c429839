"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from ..contracts.errors import DataError

STALE_AFTER_S = 3600.0
PARTIAL = ".partial-"


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` so that a reader sees the old file or the whole new one, and a failure leaves nothing.

    There is no fsync: a file that a power cut tears is found out by its digest and made again.

    Raises:
        DataError: no space left, no permission, or another refusal of the file system.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):  # the folder itself may be the trouble; the error says so
            partial.unlink()
        if isinstance(error, OSError):
            raise DataError(
                f"{path.parent}: cannot be written ({error.strerror or error}); free some space there, "
                "or set VLADAPT_CACHE to another folder"
            ) from error
        raise


def remove_stale_partials(folder: Path) -> None:
    """Remove what killed processes left half-written, long enough ago that none can still be writing it."""
    for path in folder.glob(f"{PARTIAL}*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was quicker

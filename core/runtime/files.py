"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import ConfigError, DataError
from .distributed import is_main, run_on_all
from .progress import Reporter

STALE_AFTER_S = 3600.0
PARTIAL = ".partial-"
PLACE = ".resume"


def write_whole(path: Path, content: str | bytes, cure: str = "give another --out") -> None:
    """Write `content` so that a reader sees the old file or the whole new one, and a failure leaves nothing.

    There is no fsync: where a power cut may matter, a digest beside the file tells.

    Args:
        content: text is written as UTF-8.
        cure: what to do where nothing can be written, for the message.

    Raises:
        DataError: no space left, no permission, or another refusal of the file system.
    """
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        partial.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):  # the folder itself may be the trouble; the error says so
            partial.unlink()
        if isinstance(error, OSError):
            raise refused(path.parent, error, cure) from error
        raise


def write_cached(path: Path, content: str | bytes) -> None:
    """Write a file of the cache whole; its folder is made.

    Raises:
        DataError: nothing can be written there.
    """
    cure = "set VLADAPT_CACHE to another folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(path.parent, error, cure) from error
    write_whole(path, content, cure)


def remove_stale_partials(folder: Path) -> None:
    """Remove what killed processes left half-written, long enough ago that none can still be writing it."""
    for path in folder.glob(f"{PARTIAL}*"):
        try:
            if time.time() - path.stat().st_mtime > STALE_AFTER_S:
                path.unlink()
        except FileNotFoundError:
            continue  # another process was quicker


def refused(folder: Path, error: Exception, cure: str = "give another --out") -> DataError:
    """The one line of a folder that cannot be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return DataError(f"{folder}: cannot be written there ({reason}); free some space or {cure}")


@contextmanager
def all_or_none(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Make a folder for files to be written in the block; if that fails, take away what was not there before.

    Args:
        folder: made, with its parents, if it is not there.
        names: of the files that the block writes.

    Raises:
        DataError: nothing can be written there (no space left, no permission, a file in place of a folder).
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    new = [folder / name for name in names if not (folder / name).exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in new:
            with suppress(OSError):  # not written yet, or the folder itself is the trouble; the error says so
                path.unlink()
        for parent in made:
            with suppress(OSError):  # others have put something there meanwhile
                parent.rmdir()
        if isinstance(error, (OSError, SafetensorError)):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(
                f"--out {folder}: cannot be written there ({reason}); free some space or give another --out"
            ) from error
        raise


@contextmanager
def kept_checkpoints(
    runs: Path, key: str, resume: bool, reporter: Reporter, newest: Callable[[Path], str]
) -> Iterator[Path]:
    """`<runs>/.resume/<key>`, removed where the block ends well.

    Args:
        runs: the folder that holds runs.
        key: says what is trained on what.
        resume: go on from what is there.
        newest: folder -> what its newest checkpoint is called ("step 12"), "" where it holds none.

    Raises:
        ConfigError: an unfinished training is there and it is not to be resumed.
    """
    folder = runs / PLACE / key
    run_on_all(lambda: _refuse_unfinished(folder, resume, newest))
    try:
        yield folder
    except BaseException:
        if is_main() and (done := newest(folder)):
            done = done[0].upper() + done[1:]
            reporter.info(f"{done} is kept in {folder}; the same command with --resume goes on from it")
        raise
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another training's checkpoints lie there
            folder.parent.rmdir()


def _refuse_unfinished(folder: Path, resume: bool, newest: Callable[[Path], str]) -> None:
    if not resume and (done := newest(folder)):
        raise ConfigError(
            f"{folder}: this fit was stopped after {done}; add --resume to go on with it, or remove that folder "
            "to start anew"
        )

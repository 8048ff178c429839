"""Files a command writes where the user says: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..contracts.errors import DataError


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

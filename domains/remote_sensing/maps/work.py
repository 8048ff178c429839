"""Folders of maps under way, beside where they are to stand: a killed process leaves them, and the same command goes
on from them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ....core.contracts import Item
from ....core.data import digest_of_file
from ....core.errors import DataError
from ....core.runtime import Reporter, WorkFolder
from ..places import files_of_item
from .scores import SCORED


@contextmanager
def work_folders(places: Sequence[Path], keys: Sequence[str], reporter: Reporter) -> Iterator[list[Path]]:
    """A folder for each map. All are removed where the block ends well; where it does not, those stay in which windows
    were scored, and nothing else in them.

    Args:
        places: the folder of each map.
        keys: of `key_of`.

    Raises:
        ConfigError: another process makes one of these maps. DataError: no folder can be made.
    """
    works = [WorkFolder.of(place, f"map-{key}") for place, key in zip(places, keys)]
    folders = [work.path for work in works]
    made = [parent for folder in folders for parent in folder.parents if not parent.exists()]
    with ExitStack() as claims:
        try:
            for work in works:
                claims.callback(work.claimed("making this map").close)
                _remove_half_made(work)
                _remove_forgotten(beside=work.path)
            yield folders
        except BaseException:
            if kept := _kept(works):
                listed = ", ".join(map(str, kept))
                reporter.info(f"The windows scored so far are kept in {listed}; the same command continues from them")
            _remove_empty([*(folder.parent for folder in folders), *made])
            raise
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_empty([folder.parent for folder in folders])


def check_free(files: Iterable[Path]) -> None:
    """Raise the DataError of the first file that is there already: no map replaces one."""
    for file in files:
        if file.exists() or file.is_symlink():
            raise DataError(f"{file}: already exists, and maps do not replace files; remove it or give another --out")


def key_of(item: Item, model: str, *windows: int) -> str:
    """16 hex digits of all that a map of an image depends on.

    Args:
        model: a text that changes with the model.
        windows: how the image is cut.
    """
    files = [[str(file.resolve()), digest_of_file(file)] for file in files_of_item(item)]
    parts = [model, files, item.decode, *windows]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _kept(works: Sequence[WorkFolder]) -> list[Path]:
    """Remove folders in which nothing was scored, and half-made files in the others, which are given back."""
    kept = [work for work in works if any(work.path.glob(f"{SCORED}*"))]
    for work in works:
        if work in kept:
            _remove_half_made(work)
        else:
            shutil.rmtree(work.path, ignore_errors=True)
    return [work.path for work in kept]


def _remove_half_made(work: WorkFolder) -> None:
    for file in work.files():
        if not file.name.startswith(SCORED):
            file.unlink(missing_ok=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in sorted(set(folders), key=lambda each: -len(each.parts)):
        with suppress(OSError):  # others have put something there meanwhile
            folder.rmdir()


def _remove_forgotten(beside: Path) -> None:
    for folder in beside.parent.glob("map-*"):
        with suppress(OSError):
            if folder != beside and WorkFolder(folder).is_forgotten():
                shutil.rmtree(folder, ignore_errors=True)

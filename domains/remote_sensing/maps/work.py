"""Folders of maps under way, beside where they are to stand: a killed process leaves them, and the same command goes
on from them, as well where finished files were being moved to their places."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ....core.contracts import Item
from ....core.data import FileHashes
from ....core.errors import ConfigError, DataError
from ....core.runtime import Reporter, WorkFolder, json_text, replacing, write_whole
from ..places import files_of_item
from .scores import SCORED

MAPS = "map-"
"""How names of work folders begin."""
MOVED = "moved.json"
"""In a work folder, while finished files are moved: where they go, and what they are."""


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
    works = [WorkFolder.of(place, f"{MAPS}{key}") for place, key in zip(places, keys)]
    folders = [work.path for work in works]
    made = [parent for folder in folders for parent in folder.parents if not parent.exists()]
    with ExitStack() as claims:
        try:
            for work in works:
                claims.callback(work.claimed("making this map").close)
                _remove_half_made(work)
                _remove_forgotten(beside=work.path)
            yield folders
        except BaseException as error:
            unfinished = _kept(works)
            for work in unfinished:
                work.keeps("windows scored so far")
            if unfinished and not isinstance(error, KeyboardInterrupt):
                listed = ", ".join(str(work.path) for work in unfinished)
                reporter.info(f"The windows scored so far are kept in {listed}; the same command continues from them")
            _remove_empty([*(folder.parent for folder in folders), *made])
            raise
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_empty([folder.parent for folder in folders])


def check_free(files: Iterable[Path], places: Iterable[Path], keys: Sequence[str] = ("*",)) -> None:
    """Raise the ConfigError of the first file that is there already: no map replaces one, except those that a killed
    process had moved there, which the same command makes again.

    Args:
        places: the folders of the maps.
        keys: of the command (`key_of`); those of any by default.
    """
    moved = {
        record
        for place in set(places)
        for key in keys
        for file in WorkFolder.of(place, MAPS).path.parent.glob(f"{MAPS}{key}/{MOVED}")
        for record in _moved(file)
    }
    for file in files:
        if (file.exists() or file.is_symlink()) and (str(file.resolve()), *_identity(file)) not in moved:
            raise ConfigError(f"{file}: already exists, and maps do not replace files; remove it or give another --out")


def put_in_place(moves: Mapping[Path, Path], work: Path) -> None:
    """Move finished files; those that were moved are removed again where one cannot be.

    Args:
        moves: place -> the file as it was made.
        work: folder of one of the maps.

    Raises:
        DataError: nothing can be written there.
    """
    records = [(str(place.resolve()), *_identity(made)) for place, made in moves.items()]
    write_whole(work / MOVED, json_text([*_moved(work / MOVED), *records]))
    done: list[Path] = []
    try:
        for place, made in moves.items():
            _move(made, place)
            done.append(place)
    except BaseException:
        for place in done:
            place.unlink(missing_ok=True)
        raise


def key_of(item: Item, model: str, *windows: int) -> str:
    """16 hex digits of all that a map of an image depends on.

    Args:
        model: a text that changes with the model.
        windows: how the image is cut.
    """
    files = [[str(file.resolve()), FileHashes.of_file(file)] for file in files_of_item(item)]
    parts = [model, files, item.decode, *windows]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _move(made: Path, place: Path) -> None:
    try:
        os.replace(made, place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise DataError.unwritable(place.parent, error, "give another folder") from error
        with replacing(place) as partial:  # on another disk
            shutil.copy2(made, partial)


def _identity(file: Path) -> tuple[int, int]:
    """Size and time of the last write, which a file keeps when it is moved."""
    status = file.lstat()
    return status.st_size, status.st_mtime_ns


def _moved(file: Path) -> list[tuple[str, int, int]]:
    """Records of `put_in_place`; none where there is no such file, or a damaged one."""
    try:
        return [(str(place), int(size), int(time)) for place, size, time in json.loads(file.read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def _kept(works: Sequence[WorkFolder]) -> list[WorkFolder]:
    """Remove folders in which nothing was scored, and half-made files in the others, which are given back."""
    scored = [work for work in works if any(work.path.glob(f"{SCORED}*"))]
    for work in works:
        if work in scored:
            _remove_half_made(work)
        else:
            shutil.rmtree(work.path, ignore_errors=True)
    return scored


def _remove_half_made(work: WorkFolder) -> None:
    for file in work.files():
        if not file.name.startswith((SCORED, MOVED)):
            file.unlink(missing_ok=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in sorted(set(folders), key=lambda each: -len(each.parts)):
        with suppress(OSError):  # others have put something there meanwhile
            folder.rmdir()


def _remove_forgotten(beside: Path) -> None:
    for folder in beside.parent.glob(f"{MAPS}*"):
        with suppress(OSError):
            if folder != beside and WorkFolder(folder).is_forgotten():
                shutil.rmtree(folder, ignore_errors=True)

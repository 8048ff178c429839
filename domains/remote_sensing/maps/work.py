"""Folders of maps under way, beside where they are to stand: a killed process leaves them, and the same command goes
on from them."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ....core.contracts import Scorer
from ....core.errors import ConfigError
from ....core.runtime import KEPT_DAYS, MARKER, PLACE, Reporter, claimed, is_abandoned, refused
from ..places import files_of_item
from .scores import SCORED, Windows


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
    folders = [place / PLACE / f"map-{key}" for place, key in zip(places, keys)]
    made = [parent for folder in folders for parent in folder.parents if not parent.exists()]
    with ExitStack() as claims:
        try:
            for folder in folders:
                claims.callback(_claimed(folder).close)
                _remove_half_made(folder)
                _remove_old(folder)
            yield folders
        except BaseException:
            if kept := _kept(folders):
                listed = ", ".join(map(str, kept))
                reporter.info(f"The windows scored so far are kept in {listed}; the same command continues from them")
            _remove_empty([*(folder.parent for folder in folders), *made])
            raise
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        _remove_empty([folder.parent for folder in folders])


def key_of(windows: Windows, model: Scorer) -> str:
    """16 hex digits of all that scores of windows depend on."""
    stamps = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files_of_item(windows.item)]
    parts = [model.fingerprint, stamps, windows.item.decode, windows.size, windows.stride]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _claimed(folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return claimed(folder / MARKER)
    except BlockingIOError:
        raise ConfigError(f"{folder}: another process is making this map; wait for it, or give another --out") from None
    except OSError as error:
        raise refused(folder.parent, error) from error


def _kept(folders: Sequence[Path]) -> list[Path]:
    """Remove folders in which nothing was scored, and half-made files in the others, which are given back."""
    kept = [folder for folder in folders if any(folder.glob(f"{SCORED}*"))]
    for folder in folders:
        if folder in kept:
            _remove_half_made(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def _remove_half_made(folder: Path) -> None:
    for file in folder.iterdir():
        if not file.name.startswith((SCORED, MARKER)):
            file.unlink(missing_ok=True)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in sorted(set(folders), key=lambda each: -len(each.parts)):
        with suppress(OSError):  # others have put something there meanwhile
            folder.rmdir()


def _remove_old(own: Path) -> None:
    """Remove maps of killed processes that nobody has gone on with for long."""
    old = time.time() - KEPT_DAYS * 86400
    for folder in own.parent.glob("map-*"):
        with suppress(OSError):
            if folder != own and folder.stat().st_mtime < old and is_abandoned(folder / MARKER):
                shutil.rmtree(folder, ignore_errors=True)

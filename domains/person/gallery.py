"""Pictures of people without a task: what an index, a prediction and captions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...core.contracts import DomainData, Item, Target
from ...core.data import read_unlabelled
from ...core.errors import DataError
from .readers.camera_names import person_named
from .reading import PersonReading, SetFormat

OF_PEOPLE = ("re-identification", "person-search")
"""Tasks whose sets are galleries; a table of attributes beside pictures is none."""


def read_gallery(paths: Sequence[str | Path], reading: PersonReading, formats: Sequence[SetFormat]) -> DomainData:
    """All pictures of files and folders, or of a table or list that is given by itself.

    What a set that some format knows says of a picture is kept; of others person, camera and frame are told by names
    as published sets have them (`0002_c1s1_000451_03.jpg`). Junk (identity -1) is left out.

    Raises:
        DataError: a path does not exist, or holds no picture.
    """
    alone = Path(paths[0]) if len(paths) == 1 and reading.detections is None else None
    known = None
    if alone is not None and alone.exists() and not _is_picture(alone, reading):
        known = _known_set(alone, reading, formats)
        if known is not None and alone.is_file():
            return known
    data = read_unlabelled(paths, reading.formats)
    targets = {} if known is None else {Path(item.source).resolve(): item.target for item in known.items}
    named = [_named(item, targets.get(Path(item.source).resolve())) for item in data.items]
    kept = [item for item in named if item is not None]
    if not kept:
        raise DataError(f"{paths[0]}: all {len(named)} pictures are junk (identity -1); give others")
    notes = [f"Junk pictures (identity -1), left out: {len(named) - len(kept)}."] if len(kept) < len(named) else []
    return replace(data.with_items(kept), notes=[*data.notes, *notes])


def _known_set(path: Path, reading: PersonReading, formats: Sequence[SetFormat]) -> DomainData | None:
    """The set, by the first format that reads it; None where none does, as of a plain folder."""
    for each in formats:
        task = next((task for task in OF_PEOPLE if task in each.tasks), None)
        if task is None or (source := each.find(path)) is None:
            continue
        try:
            return each.read(source, reading, task)
        except DataError:
            if path.is_file():
                raise
            return None
    return None


def _is_picture(path: Path, reading: PersonReading) -> bool:
    return path.is_file() and any(fmt.matches(path) for fmt in reading.formats)


def _named(item: Item, target: Target | None) -> Item | None:
    """With what a set, or the file's name, says; None for junk."""
    named = target or person_named(Path(item.source).with_suffix("").as_posix())
    return None if isinstance(named, int) else item.with_(target=named)

"""Pictures of people without a task: what an index, a prediction and captions are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...core.contracts.domain import DomainData, Item
from ...core.data.unlabelled import read_unlabelled
from ...core.errors import DataError
from .pedestrian import Pedestrian
from .readers.camera_names import BACKGROUND, JUNK, NAME
from .reading import Reading, SetFormat

OF_PEOPLE = ("re-identification", "person-search")
"""Tasks whose sets are galleries; a table of attributes beside pictures is none."""


def read_gallery(paths: Sequence[str | Path], reading: Reading, formats: Sequence[SetFormat]) -> DomainData:
    """The pictures of one set that some format knows, else of files and folders.

    Of plain files the person, the camera and the frame are told by names like `0002_c1s1_000451_03.jpg`; junk (identity
    -1) is left out.

    Raises:
        DataError: a path does not exist, or holds no picture.
    """
    if len(paths) == 1 and reading.crops is None and not _is_picture(Path(paths[0]), reading):
        if (known := _known_set(Path(paths[0]), reading, formats)) is not None:
            return known
    data = read_unlabelled(paths, reading.formats)
    named = [_named(item) for item in data.items]
    junk = sum(item is None for item in named)
    notes = [*data.notes, *([f"Junk pictures (identity -1), left out: {junk}."] if junk else [])]
    return replace(data.with_items([item for item in named if item is not None]), notes=notes)


def _known_set(path: Path, reading: Reading, formats: Sequence[SetFormat]) -> DomainData | None:
    """The set, by the first format that reads it; None where none does, as of a plain folder."""
    if not path.exists():
        return None
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


def _is_picture(path: Path, reading: Reading) -> bool:
    return path.is_file() and any(fmt.matches(path) for fmt in reading.formats)


def _named(item: Item) -> Item | None:
    """With what the file's name says; None for junk."""
    match = NAME.match(Path(item.source).stem)
    if match is None:
        return item
    number = int(match["identity"])
    if number == JUNK:
        return None
    who = None if number == BACKGROUND else str(number)
    return item.with_(target=Pedestrian(who, str(int(match["camera"])), str(int(match["frame"]))))

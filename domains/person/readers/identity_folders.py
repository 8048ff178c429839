"""A folder per person: `PERSON/*.jpg`, with or without train, val and test, or query and gallery, above.

The camera is what a file's name or a folder inside the person's says (`0001_c2_f00066.png`, `PERSON/cam2/12.png`),
where two cameras show several people each: other words look like cameras too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import Format, Layout, folders, shown, walk
from ..pedestrian import GALLERY, IDENTITIES, QUERY, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat
from .camera_names import cameras_told

PARTS = {
    **{name: (split, "") for name, split in Layout.SPLITS.items()},
    QUERY: ("test", QUERY),
    GALLERY: ("test", GALLERY),
}
"""Folder -> split and role."""


def find(path: Path) -> Path | None:
    """`path`, or its folder called images, if folders of people are in it."""
    if not path.is_dir():
        return None
    inside = [folder for folder in folders(path) if folder.name.lower() in Layout.CONTAINERS]
    return next((each for each in (path, *inside) if any(True for _ in _people(each))), None)


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of all people. What lies beside their folders is of nobody, and left out."""
    people = PeopleCollector(source=path)
    pictures = [
        (file, Pedestrian(folder.name, role=role), split, "/".join((*file.relative_to(folder).parts[:-1], file.stem)))
        for folder, split, role in _people(path)
        for file in walk(folder, path, people)
        if Format.of(file, reading.formats) is not None
    ]
    cameras, notes = cameras_told([inside for *_, inside in pictures], [target.identity for _, target, *_ in pictures])
    for (file, target, split, _), camera in zip(pictures, cameras):
        people.add_person(file, shown(file, path), reading.formats, replace(target, camera=camera), split=split)
    return people.data(path.resolve().name, IDENTITIES, reading.formats, notes)


def _people(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Each person's folder, its split and role."""
    inner = folders(path)
    parts = [folder for folder in inner if folder.name.lower() in PARTS]
    if parts:
        for part in parts:
            yield from ((folder, *PARTS[part.name.lower()]) for folder in folders(part))
        return
    yield from ((folder, "", "") for folder in inner if folder.name.lower() not in Layout.CONTAINERS)


IDENTITY_FOLDERS = SetFormat("a folder per person", ("re-identification",), find, read)

"""Tables of pictures of people: CSV, TSV or JSONL with a row per picture.

Columns, in any case: `image`, `identity`, `camera`, `time`, `split`, `role` (query or gallery), and captions: one in
`caption`, a list in `captions`, or several rows of one picture. Identity -1 is junk, an empty one is nobody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData, Item
from ....core.data import Layout, Row, Table, locate, read_table, shown, visible
from ....core.errors import DataError, shortened
from ....core.runtime import read_start
from ..pedestrian import IDENTITIES, ROLES, Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat
from .camera_names import cameras_told

SUFFIXES = (".csv", ".tsv", ".jsonl")
COLUMNS = {
    "image": ("image", "image_path", "file_path", "file", "filename", "path", "img_path", "filepath"),
    "identity": ("identity", "person", "person_id", "pid", "id", "person_name", "identity_id"),
    "camera": ("camera", "cam", "camera_id", "camid", "cam_id"),
    "time": ("time", "timestamp", "datetime", "date", "frame"),
    "split": ("split", "set", "subset", "partition"),
    "role": ("role",),
    "captions": ("captions", "caption", "text", "sentence", "description"),
}
JUNK = "-1"
FOLDERS = ("", "imgs", "images", "data")


def find(path: Path) -> Path | None:
    """A table, or the one in a folder with columns of images and identities.

    Raises:
        DataError: several of a folder have them.
    """
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES else None
    tables = [Path(entry.path) for entry in visible(path) if Path(entry.path).suffix.lower() in SUFFIXES]
    named = [table for table in sorted(tables) if table.is_file() and _names_people(table)]
    if len(named) > 1:
        raise DataError(f"{path}: holds {', '.join(table.name for table in named)}; give one of them")
    return named[0] if named else None


def _names_people(path: Path) -> bool:
    """Told by the beginning of the file."""
    start = read_start(path, 1 << 16).decode("utf-8-sig", "replace").split("\n", 1)[0].lower()
    return all(any(name in start for name in COLUMNS[kind]) for kind in ("image", "identity"))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The rows whose pictures are there; rows of one picture are one.

    Raises:
        DataError: no column of images or identities, or a value that is not usable; the message names the line.
    """
    table = read_table(path)
    columns = {kind: table.column_of(names) for kind, names in COLUMNS.items()}
    for kind in ("image", "identity"):
        if columns[kind] is None:
            raise DataError(f"{path}: no column {kind}; it has: {shortened(', '.join(map(str, table.columns)))}")
    return read_people_rows(table, columns, reading, task)


def read_people_rows(table: Table, columns: dict[str, str | None], reading: PersonReading, task: str) -> DomainData:
    """The set of a table's rows.

    Args:
        columns: of `COLUMNS`, which of the table's they are; None where it has none.
    """
    folder = table.path.parent
    roots = [Path(reading.root)] if reading.root else [folder / each for each in FOLDERS if (folder / each).is_dir()]
    people = PeopleCollector(source=table.path)
    targets: dict[Path, tuple[str, Pedestrian, str]] = {}
    for row in table.rows:
        name, identity = row.text(columns["image"]), row.text(columns["identity"])
        if identity == JUNK:
            people.junk += 1
            continue
        file = locate(name, roots, row.place) if name else None
        if file is None:
            people.skip(name or row.place, f"no such file below {roots[0]}" if name else "names no image")
            continue
        target, split = _target(row, columns, name, identity or None), _split(row, columns["split"])
        if file in targets:
            target, split = _joined(row, targets[file], target, split)
        targets[file] = name, target, split
    cameras, notes = [target.camera for _, target, _ in targets.values()], list[str]()
    if not columns["camera"]:
        names = [str(Path(name).with_suffix("")) for name, _, _ in targets.values()]
        cameras, notes = cameras_told(names, [target.identity for _, target, _ in targets.values()])
    for (file, (_, target, split)), camera in zip(targets.items(), cameras):
        people.add_person(file, shown(file, folder), reading.formats, replace(target, camera=camera), split=split)
    return checked(people, table, task, reading, notes)


def checked(
    people: PeopleCollector, table: Table, task: str, reading: PersonReading, notes: Sequence[str] = ()
) -> DomainData:
    """The set, which has what the task is about.

    Raises:
        DataError: no picture can be read, or none has a caption where people are searched by captions.
    """
    if not people.items and people.skipped:
        name, reason = people.skipped[0]
        raise DataError(
            f"{table.path}: none of the {len(people.skipped)} images that it lists can be read ({shortened(name)}: "
            f"{reason}); name their folder by --root"
        )
    searched = task != "re-identification"
    if searched and not any(item.captions() for item in people.items):
        raise DataError(f"{table.path}: no picture has a caption, which {task} needs; add a column captions")
    return people.data(table.path.stem, "captions" if searched else IDENTITIES, reading.formats, notes)


def _target(row: Row, columns: dict[str, str | None], name: str, identity: str | None) -> Pedestrian:
    role = row.text(columns["role"]).lower()
    if role not in ROLES:
        raise DataError(
            f"{row.place}: role '{shortened(role)}' is neither query nor gallery; correct it, or leave it empty"
        )
    camera = row.text(columns["camera"]) if columns["camera"] else ""
    return Pedestrian(identity, camera, _time(row, columns["time"]), role, _captions(row, columns["captions"]))


def _time(row: Row, column: str | None) -> str:
    text = row.text(column)
    try:
        if text:
            float(text) if text.replace(".", "", 1).lstrip("-").isdigit() else datetime.fromisoformat(
                text.replace("Z", "+00:00")
            )
    except ValueError:
        raise DataError(
            f"{row.place}: time '{shortened(text)}' is neither a number nor an ISO date (2024-05-01T10:00); correct it"
        ) from None
    return text


def _split(row: Row, column: str | None) -> str:
    text = row.text(column).lower()
    split = Layout.SPLITS.get(text, text)
    if split and split not in Item.SPLITS:
        raise DataError(f"{row.place}: split '{shortened(text)}' is none of {', '.join(Item.SPLITS)}; correct it")
    return split


def _captions(row: Row, column: str | None) -> tuple[str, ...]:
    value: Any = row.values.get(column) if column else None
    several = value if isinstance(value, (list, tuple)) else [value]
    if any(each is not None and not isinstance(each, str) for each in several):
        raise DataError(f"{row.place}: captions are {shortened(repr(value))}; give a text or a list of texts")
    return tuple(dict.fromkeys(each.strip() for each in several if each and each.strip()))


def _joined(row: Row, before: tuple[str, Pedestrian, str], target: Pedestrian, split: str) -> tuple[Pedestrian, str]:
    """Two rows of one picture as one."""
    _, first, first_split = before
    if (first.identity, first_split) != (target.identity, split):
        raise DataError(
            f"{row.place}: the picture is listed before as {first.identity} in {first_split or 'no split'}, here as "
            f"{target.identity} in {split or 'no split'}; list it once"
        )
    return replace(first, texts=tuple(dict.fromkeys((*first.texts, *target.texts)))), split


PEOPLE_TABLES = SetFormat(
    "a table (csv, tsv, jsonl) with columns image and identity",
    ("person-search", "re-identification"),
    find,
    read,
    takes=("root",),
)

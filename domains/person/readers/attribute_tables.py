"""Attributes of people in a table: a row per picture, a column per attribute, as PETA, PA-100K and RAP are passed on.

Values are 1 (has it), what `absent` says (0) and what `unknown` says (-1); an empty cell is unknown too. Any other
value is refused: it would become a wrong label. Columns with the usual names of pictures, splits, people, cameras and
times are these; all others are attributes, unless `class_names` says which are.

Papers: "Pedestrian Attribute Recognition At Far Distance" (PETA; Deng et al., ACM MM 2014), "HydraPlus-Net" (PA-100K;
Liu et al. 2017, arXiv 1709.09930).
"""

from __future__ import annotations

import re
from math import isnan
from pathlib import Path

from ....core.contracts import DomainData
from ....core.data import Row, Table, locate, read_table, shown, split_named
from ....core.errors import DataError, shortened
from ....core.runtime import json_values, text_lines
from ..pedestrian import Pedestrian
from ..reading import PeopleCollector, PersonReading, SetFormat
from .market_attributes import chosen_names

IDENTITY_COLUMNS = ("identity", "person_id", "person", "pid", "id")
CAMERA_COLUMNS = ("camera", "cam", "camera_id", "camid", "cam_id")
TIME_COLUMNS = ("time", "timestamp", "datetime", "date")
OTHER_COLUMNS = ("caption", "captions", "text", "bbox", "box", "frame", "height", "width", "sequence")
PICTURES = (*Table.IMAGE, "image_id", "image_name", "img", "img_path", "name")
SUFFIXES = (".csv", ".tsv", ".jsonl")
HAS = ("1", "1.0", "true")
NAMES = ("attributes", "labels", "annotation", "annotations", "manifest", "metadata")


def find(path: Path) -> Path | None:
    """The table: `path`, or in a folder the only one, or the one that is called attributes, labels or the like."""
    if path.is_file():
        return path if path.suffix.lower() in SUFFIXES and _names_attributes(path) else None
    tables = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
    named = [file for file in tables if file.stem.lower() in NAMES]
    found = named if len(named) == 1 else tables
    return found[0] if len(found) == 1 and _names_attributes(found[0]) else None


def _names_attributes(path: Path) -> bool:
    """Whether its first line names pictures and something that may be an attribute."""
    line = next((line for line in text_lines(path) if line.strip()), "")
    try:
        cells = list(json_values(line)) if path.suffix.lower() == ".jsonl" else re.split("[,;\t]", line.strip())
    except (ValueError, TypeError):
        return False
    table = Table(path, tuple(str(cell).strip('" ') for cell in cells), [])
    return table.column_of(PICTURES) is not None and bool(_attributes(table))


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures of the table.

    Raises:
        DataError: a value that stands for nothing, a path that leaves the folder, or an identity in two splits.
    """
    table = read_table(path)
    columns = {
        "image": table.column_of(PICTURES),
        "split": table.column_of(Table.SPLIT),
        "identity": table.column_of(IDENTITY_COLUMNS),
        "camera": table.column_of(CAMERA_COLUMNS),
        "time": table.column_of(TIME_COLUMNS),
    }
    names = chosen_names(_attributes(table), reading, path)
    values = Values(reading.absent, reading.unknown)
    values.check_table(table, names)
    people, without = PeopleCollector(source=path), 0
    row_of: dict[str, int] = {}
    root = Path(reading.root) if reading.root else path.parent
    roots = [root, root / "images"]
    for number, row in enumerate(table.rows):
        listed = row.text(columns["image"])
        if not listed:
            raise DataError(f"{row.place}: no picture in column '{columns['image']}'; fill it in or remove the line")
        file = locate(listed, roots, row.place, reading.formats)
        labels = tuple(values.of(row, name) for name in names)
        if file is None:
            people.skip(listed, f"no such file below {root}")
            continue
        if all(map(isnan, labels)):
            without += 1
            continue
        who = row.text(columns["identity"]) or None
        target = Pedestrian(who, row.text(columns["camera"]), row.text(columns["time"]), attributes=labels)
        split, id_ = split_named(row.text(columns["split"]), row.place), shown(file, root)
        people.add_person(file, id_, reading.formats, target, split=split)
        row_of[id_] = number
    notes = [f"Pictures of which no attribute is known, left out: {without}."] if without else []
    data = people.data(path.resolve().parent.name, "multilabel", reading.formats, notes)
    data.class_names = names
    data.columns = Table.columns_reader([(path, row_of, (columns["image"], *names))])
    return data


def _attributes(table: Table) -> list[str]:
    known = (*PICTURES, *Table.SPLIT, *IDENTITY_COLUMNS, *CAMERA_COLUMNS, *TIME_COLUMNS, *OTHER_COLUMNS, "")
    plain = {Table.plain_name(name) for name in known}
    return [column for column in table.columns if Table.plain_name(column) not in plain]


class Values:
    """What the cells of attributes mean.

    Args:
        absent: the value of who has it not.
        unknown: the value where nobody knows; where both are the same, it means absent.
    """

    def __init__(self, absent: str, unknown: str):
        self.absent, self.unknown = absent, unknown

    def check_table(self, table: Table, names: tuple[str, ...]) -> None:
        """Refuse a table whose -1 may be either: it has no 0, and -1 is taken for unknown.

        Raises:
            DataError: as said.
        """
        texts = {row.text(name) for row in table.rows for name in names}
        if self.unknown in texts and not (texts & set(_spellings(self.absent))) and texts & set(HAS):
            raise DataError(
                f"{table.path}: its attributes are 1 and {self.unknown}, none is {self.absent}; if {self.unknown} "
                f"means absent, as in CelebA, give --set data.absent={self.unknown}"
            )

    def of(self, row: Row, name: str) -> float:
        """1, 0, or NaN for unknown.

        Raises:
            DataError: another value.
        """
        text = row.text(name).casefold()
        if text in HAS:
            return 1.0
        if text in _spellings(self.absent):
            return 0.0
        if text in ("", "nan") or text in _spellings(self.unknown):
            return float("nan")
        raise DataError(
            f"{row.place}: '{shortened(row.text(name))}' in column '{shortened(name)}'; attributes are 1, "
            f"{self.absent}, or {self.unknown} for unknown (--set data.absent, data.unknown); if this column is not "
            "an attribute, name those that are by --set data.class_names"
        )


def _spellings(value: str) -> tuple[str, ...]:
    """ "0" is "0.0" and "false" too."""
    more = ("false",) if value == "0" else ()
    return (value, f"{value}.0", *more) if value.lstrip("-").isdecimal() else (value.casefold(),)


ATTRIBUTE_TABLE = SetFormat(
    "a table with a picture per row and an attribute per column (PETA, PA-100K)",
    ("attributes",),
    find,
    read,
    takes=("root", "class_names", "absent", "unknown"),
)

"""Attributes of the people of Market-1501 and DukeMTMC-reID: `market_attribute.mat`, `duke_attribute.mat`.

"Improving Person Re-identification by Attribute and Identity Learning" (Lin et al. 2017, arXiv 1703.07220): for each
identity of the training and of the test set one number per attribute, 1 or 2, of age 1 to 4. Distractors have none and
are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData
from ....core.data import read_matlab
from ....core.errors import DataError, UnknownNameError, did_you_mean, shortened
from ....core.runtime import check_regular
from ..reading import PersonReading, SetFormat
from . import camera_names

NAMES = {"market_attribute.mat": "market_attribute", "duke_attribute.mat": "duke_attribute"}
PARTS = ("train", "test")
IDENTITIES = "image_index"
AGES = {1: "young", 2: "teenager", 3: "adult", 4: "old"}
SHARED = {
    "gender": {2: "female"},
    "hat": {2: "hat"},
    "backpack": {2: "backpack"},
    "bag": {2: "bag"},
    "handbag": {2: "handbag"},
}
OF_SET: dict[str, dict[str, dict[int, str]]] = {
    "market_attribute": {
        "age": AGES,
        "hair": {2: "long hair"},
        "up": {2: "short sleeves"},
        "down": {2: "short lower-body clothing"},
        "clothes": {2: "trousers"},
    },
    "duke_attribute": {
        "top": {2: "long upper-body clothing"},
        "boots": {2: "boots"},
        "shoes": {2: "light shoes"},
    },
}
"""Field -> the value that makes a person have which attribute; another value from 1 on is that they have it not."""
COLOURS = {"up": "upper-body clothing", "down": "lower-body clothing"}
MOST_BYTES = 64 << 20


def find(path: Path) -> Path | None:
    """The .mat file: `path`, or one in it, in `attribute/` in it, or in either of the folder of the pictures."""
    if path.is_file():
        return path if path.name.lower() in NAMES else None
    pictures = camera_names.find(path)
    places = [place for base in (path, pictures) if base is not None for place in (base, base / "attribute")]
    return next((place / name for place in places for name in NAMES if (place / name).is_file()), None)


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The pictures with the attributes of who is in them."""
    root = next((each for each in (path.parent, path.parent.parent) if camera_names.find(each) is not None), None)
    if root is None:
        folders = ", ".join(camera_names.LAYOUTS[0])
        raise DataError(f"{path}: no pictures beside it; put it into the folder that holds {folders}")
    of_person, names = attributes_of(path, reading.unknown)
    data = camera_names.read(camera_names.find(root), reading, task)
    kept = [item for item in data.items if item.target.identity in of_person]
    if not kept:
        raise DataError(f"{path}: names none of the people in {root}; check that it belongs to this set")
    chosen = chosen_names(names, reading, path)
    places = [names.index(name) for name in chosen]
    items = [
        item.with_(target=replace(item.target, attributes=tuple(of_person[item.target.identity][p] for p in places)))
        for item in kept
    ]
    left = len(data.items) - len(items)
    notes = [*data.notes, *([f"Pictures of people without attributes, left out: {left}."] if left else [])]
    return replace(data, items=items, class_names=chosen, kind="multilabel", notes=notes)


def chosen_names(names: list[str], reading: PersonReading, source: Path) -> tuple[str, ...]:
    """Those of `class_names`, by default all.

    Raises:
        UnknownNameError: one that the set does not have.
    """
    for name in reading.class_names or ():
        if name not in names:
            raise UnknownNameError(f"--set data.class_names: {source} has no '{name}'; {did_you_mean(name, names)}")
    return tuple(reading.class_names or names)


def attributes_of(path: Path, unknown: str) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """Identity -> 1, 0 or NaN per attribute, and the attributes' names.

    Args:
        unknown: the value that says nobody knows.

    Raises:
        DataError: the file is damaged, or holds a value that stands for nothing.
    """
    variable = NAMES[path.name.lower()]
    if (size := check_regular(path)) > MOST_BYTES:
        raise DataError(
            f"{path}: {size >> 20} MB, more than attributes of people take; check that it is the right file"
        )
    content, people = next(iter(read_matlab(path, variable)[variable]), None), {}
    columns: list[tuple[str, int, str]] | None = None
    for part in PARTS:
        fields = content.get(part) if isinstance(content, dict) else None
        if not isinstance(fields, dict) or not isinstance(fields.get(IDENTITIES), list):
            raise DataError(f"{path}: '{variable}' has no '{part}' with '{IDENTITIES}'; get it again")
        ids = [str(each).strip() for each in fields[IDENTITIES]]
        named = _columns(variable, fields)
        columns = named if columns is None else columns
        if named != columns:
            raise DataError(f"{path}: its train and test have different attributes; get it again")
        rows = _rows(path, part, ids, fields, columns, unknown)
        people.update({str(int(name)) if name.isdecimal() else name: row for name, row in zip(ids, rows, strict=True)})
    return people, [name for _, _, name in columns]


def _columns(variable: str, fields: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(field, value, name) of each attribute, in the order of the file."""
    meanings, columns = {**SHARED, **OF_SET[variable]}, []
    for field in fields:
        if field == IDENTITIES:
            continue
        meaning = meanings.get(field) or _colour(field) or {2: field}
        columns += [(field, value, name) for value, name in meaning.items()]
    return columns


def _colour(field: str) -> dict[int, str] | None:
    for start, part in COLOURS.items():
        if field.startswith(start) and field != start:
            return {2: f"{field.removeprefix(start)} {part}"}
    return None


def _rows(path, part: str, ids, fields, columns, unknown: str) -> list[tuple[float, ...]]:
    values = {field: fields[field] for field, _, _ in columns}
    lengths = {field: len(each) if isinstance(each, list) else 1 for field, each in values.items()}
    if wrong := next((field for field, length in lengths.items() if length != len(ids)), None):
        raise DataError(
            f"{path}: '{part}' has {len(ids)} people and {lengths[wrong]} values of '{wrong}'; get the file again"
        )
    if repeated := [name for name, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{path}: '{part}' names person {shortened(repeated[0])} twice; get the file again")
    most = {field: max(2, *(value for of, value, _ in columns if of == field)) for field in values}
    rows = []
    for place, person in enumerate(ids):
        at = {field: each[place] if isinstance(each, list) else each for field, each in values.items()}
        for field, value in at.items():
            known = isinstance(value, (int, float)) and value in range(1, most[field] + 1)
            if not known and _text(value) != unknown:
                raise DataError(
                    f"{path}: '{field}' of person {shortened(person)} is {shortened(_text(value))}; it must be 1 to "
                    f"{most[field]}, or {unknown} for unknown"
                )
        unsure = {field for field, value in at.items() if _text(value) == unknown}
        rows.append(tuple(float("nan") if of in unsure else float(at[of] == value) for of, value, _ in columns))
    return rows


def _text(value: Any) -> str:
    """A number without needless digits."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


MARKET_ATTRIBUTES = SetFormat(
    "Market-1501's folders with market_attribute.mat", ("attributes",), find, read, takes=("class_names", "unknown")
)

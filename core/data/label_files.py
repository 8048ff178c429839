"""Tables of labelling: what `vladapt select` lists, and what `vladapt label` writes and `--data` reads.

Both are CSV files that name their images by the ids that a domain gives them, so that a slice of a volume, a frame or a
window of a raster is labelled like a whole file. The first row says besides where the images are and how they were
read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item, check_items
from ..contracts.options import as_text
from ..contracts.recipe import SAMPLE
from ..errors import ConfigError, DataError, did_you_mean, shortened
from ..runtime.reading import parse_json, read_start
from .links import stays_inside
from .pools import pool_of_classes, read_pool
from .row_labels import labels_of_cells
from .tables import Row, Table, csv_text, read_table

LABEL_COLUMNS = ("id", "label", "answer", "labeller", "time", "drawn", "round")
TODO_COLUMNS = ("id", "drawn", "round", "guess", "confidence", "given")
SOURCE_COLUMNS = ("data", "labelled", "domain", "task", "reading", "classes")
RANDOM = "random"
"""In the column `drawn`: an image of those that accuracy is told by, which teach nothing."""
NOT_SURE, NONE_OF_THESE = "not sure", "none of these"
ANSWERS = ("", NOT_SURE, NONE_OF_THESE)
"""In the column `answer`: a label was given, or why there is none."""
MOST_ROUND = 1_000_000


@dataclass(frozen=True)
class TableSource:
    """Where the images of a table come from.

    Args:
        data: their folder or file, relative to the table's folder; or "sample".
        domain, task: whose they are.
        classes: all class names, in order.
        reading: options of the domain's reader.
        labelled: whether the data has labels of its own, which the table corrects.
    """

    data: str
    domain: str
    task: str
    classes: tuple[str, ...]
    reading: Mapping[str, Any] = field(default_factory=dict)
    labelled: bool = False

    def cells(self) -> dict[str, str]:
        """Column -> text."""
        texts = {**asdict(self), "labelled": "yes" if self.labelled else "no"}
        return {**texts, "reading": json.dumps(dict(self.reading)), "classes": json.dumps(list(self.classes))}

    def place(self, table: Path, root: str | None = None) -> str:
        """The path of the data, or "sample".

        Args:
            table: the file that names it.
            root: where the data is, as the user says.

        Raises:
            DataError: it lies outside the table's folder, and nobody says where.
        """
        if self.data == SAMPLE:
            return SAMPLE
        if root is not None:
            return root
        path = table.parent / self.data
        if not stays_inside(path, table.parent):
            where = shortened(os.path.relpath(path))
            raise DataError(f"{table}: its images lie outside its folder; give --root {where}, or move it beside them")
        return str(path)


@dataclass(frozen=True)
class Todo:
    """One image to label.

    Args:
        id: of the image.
        drawn: the selector that chose it, "random" for those that accuracy is told by.
        round: the number of the selection, from 1.
        guess, confidence: the model's class, and its probability; "" where there is no model.
        given: the label that the data has, where it is doubted.
    """

    id: str
    drawn: str = ""
    round: int = 1
    guess: str = ""
    confidence: float | None = None
    given: str = ""


@dataclass(frozen=True)
class Answer:
    """What a person said of one image.

    Args:
        id: of the image.
        labels: names of classes.
        answer: "" where `labels` says it, else "not sure" or "none of these".
        labeller, time: who, and when (UTC).
        drawn, round: as of `Todo`.
    """

    id: str
    labels: tuple[str, ...] = ()
    answer: str = ""
    labeller: str = ""
    time: str = ""
    drawn: str = ""
    round: int = 1


def todo_text(rows: Sequence[Todo], source: TableSource) -> str:
    """The table of images to label, as CSV."""
    cells = [{**asdict(row), "confidence": "" if row.confidence is None else f"{row.confidence:.4f}"} for row in rows]
    return _csv_text(cells, TODO_COLUMNS, source)


def labels_text(rows: Iterable[Answer], source: TableSource) -> str:
    """The table of labels, as CSV."""
    cells = []
    for row in rows:
        named = "|".join(row.labels)
        plain = not any(sign in name for name in row.labels for sign in "|;[")
        cells.append({**asdict(row), "label": named if plain else json.dumps(list(row.labels))})
    return _csv_text(cells, LABEL_COLUMNS, source)


def is_label_file(path: str | Path) -> bool:
    """Whether a path is a table that `labels_text` wrote."""
    path = Path(path)
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return read_start(path, 200).decode("utf-8-sig", "replace").startswith(",".join(LABEL_COLUMNS))


def read_todo(path: str | Path) -> tuple[list[Todo], TableSource]:
    """The images of a table that `todo_text` wrote.

    Raises:
        DataError: no such table, or a cell that it cannot have.
    """
    table, source = _read(Path(path), TODO_COLUMNS, "`vladapt select`")
    rows = [
        Todo(
            _id(row),
            row.text("drawn"),
            _round(row),
            row.text("guess"),
            _confidence(row),
            row.text("given"),
        )
        for row in table.rows
    ]
    _each_once(path, [row.id for row in rows])
    return rows, source


def read_answers(path: str | Path) -> tuple[list[Answer], TableSource]:
    """The rows of a table that `labels_text` wrote.

    Raises:
        DataError: no such table, a label that is not among its classes, or a cell that it cannot have.
    """
    table, source = _read(Path(path), LABEL_COLUMNS, "`vladapt label`")
    rows = []
    for row in table.rows:
        answer = row.text("answer")
        if answer not in ANSWERS:
            raise DataError(f"{row.place}: answer '{shortened(answer)}'; there are '', {', '.join(ANSWERS[1:])}")
        labels = _names(row, source.classes)
        if bool(labels) == bool(answer):
            fault = "a label and an answer" if labels else "neither a label nor an answer"
            raise DataError(f"{row.place}: has {fault}; correct the row or remove it")
        who, when = row.text("labeller"), row.text("time")
        rows.append(Answer(_id(row), labels, answer, who, when, row.text("drawn"), _round(row)))
    _each_once(path, [row.id for row in rows])
    return rows, source


def read_label_file(path: str | Path, domain: Domain, task: str, reading: Mapping[str, Any]) -> DomainData:
    """The images of a table of labels as a labelled set.

    Images drawn at random are its test split, all others train; without any such image no split is given. Images in a
    folder that is called as a class count as `select` counts them. "Not sure"
    and, of one label per image, "none of these" are left out. A table of corrections gives the whole set, corrected.

    Args:
        domain, task: in which the images are read.
        reading: options of the reader that are given now; those of the table hold where they say the same.

    Raises:
        DataError: as `read_answers`; another domain, fewer than two classes, or none of the images is there.
        ConfigError: an option that the images were not read with.
    """
    path = Path(path)
    rows, source = read_answers(path)
    data = read_source(path, source, domain, task, reading)
    rows += [] if source.labelled or source.data == SAMPLE else _by_folders(data, rows, source.classes)
    several = any(len(row.labels) > 1 for row in rows)
    if source.labelled and (several or tuple(data.class_names) != source.classes):
        fault = "gives several labels to an image" if several else "names other classes than the data that it corrects"
        raise DataError(f"{path}: {fault}; list suspects again with vladapt select --wrong-labels")
    said = [row for row in rows if row.labels or (several and row.answer == NONE_OF_THESE)]
    names = {label for row in said for label in row.labels}
    classes = source.classes if source.labelled else tuple(name for name in source.classes if name in names)
    cells = [Row({"label": list(row.labels)}, f"{path}: {row.id}") for row in said]
    read = labels_of_cells(cells, "label", classes)
    targets = dict(zip((row.id for row in said), read.per_row))
    drawn = {row.id: row.drawn for row in rows}
    split = any(row.drawn == RANDOM for row in said) and not source.labelled

    def with_target(item: Item) -> Item | None:
        if item.id in targets:
            part = ("test" if drawn[item.id] == RANDOM else "train") if split else item.split
            return item.with_(target=targets[item.id], split=part)
        return item if source.labelled and item.id not in drawn else None

    known = {item.id for item in data.items}
    gone = [(row.id, "no longer among the data") for row in rows if row.id not in known]
    data = data.with_items([kept for item in data.items if (kept := with_target(item)) is not None])
    data.class_names, data.name, data.skipped = classes, path.stem, [*data.skipped, *gone]
    data.kind = "multilabel" if read.kind == "multilabel" else data.kind if source.labelled else "labels"
    data.notes = [*data.notes, *_notes(rows, said, source, classes)]
    return check_items(data, path)


def _by_folders(data: DomainData, rows: Sequence[Answer], classes: Sequence[str]) -> list[Answer]:
    """Answers that the folders of images give, where nobody gave another."""
    answered = {row.id for row in rows}
    items = [item for item in pool_of_classes(data, classes).items if item.id not in answered]
    return [Answer(item.id, (classes[item.class_label()],)) for item in items if item.class_label() is not None]


def read_source(table: Path, source: TableSource, domain: Domain, task: str, reading: Mapping[str, Any]) -> DomainData:
    """The images that a table is about.

    Raises:
        As `read_label_file`.
    """
    if source.domain != domain.name:
        raise DataError(f"{table}: made with domain {source.domain}, not {domain.name}; give --domain {source.domain}")
    for name, value in reading.items():
        if name != "root" and as_text(value) != as_text(source.reading.get(name)):
            raise ConfigError(f"--set data.{name}={value}: {table} its images were read with another value; omit it")
    place = source.place(table, reading.get("root"))
    if not source.labelled:
        return read_pool(domain, task, place, source.reading)
    if is_label_file(place):
        if read_answers(place)[1].labelled:
            raise DataError(
                f"{table}: corrects {place}, which holds corrections itself; give that one to `vladapt fit --data`"
            )
        return read_label_file(place, domain, task, {"root": reading["root"]} if "root" in reading else {})
    return domain.sample_as(task, source.reading) if place == SAMPLE else domain.read(place, task, **source.reading)


def _notes(rows: Sequence[Answer], said: Sequence[Answer], source: TableSource, classes: Sequence[str]) -> list[str]:
    notes = []
    for answer in ANSWERS[1:]:
        count = sum(row.answer == answer for row in rows if row not in said)
        if count:
            notes.append(f"Images labelled '{answer}', left out: {count}.")
    if absent := [name for name in source.classes if name not in classes]:
        notes.append(f"Classes without a labelled image, left out: {', '.join(absent)}.")
    if not source.labelled and (count := sum(row.drawn == RANDOM for row in said)):
        notes.append(f"Images drawn at random, used as the test split: {count}.")
    return notes


def _csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], source: TableSource) -> str:
    names = [*columns, *SOURCE_COLUMNS]
    filled = ({**row, **(source.cells() if place == 0 else {})} for place, row in enumerate(rows))
    return csv_text(names, ([row.get(name, "") for name in names] for row in filled))


def _read(path: Path, columns: Sequence[str], made_by: str) -> tuple[Table, TableSource]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; give one that {made_by} wrote")
    table = read_table(path)
    if missing := [name for name in (*columns, *SOURCE_COLUMNS) if name not in table.columns]:
        raise DataError(f"{path}: has no column '{missing[0]}'; give a file that {made_by} wrote")
    first = next((row for row in table.rows if row.text("data")), None)
    if first is None:
        raise DataError(f"{path}: no row says where the images are (column 'data'); put back its first row")
    reading, classes = (parse_json(first.place, first.text(name)) for name in ("reading", "classes"))
    named = isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)
    if not named or len(set(classes)) != len(classes) or len(classes) < 2 or not isinstance(reading, dict):
        raise DataError(f"{first.place}: columns 'classes' and 'reading' are not a list of names and an object")
    texts = (first.text(name) for name in ("data", "domain", "task"))
    return table, TableSource(*texts, tuple(classes), reading, first.text("labelled") == "yes")


def _id(row: Row) -> str:
    if not row.text("id"):
        raise DataError(f"{row.place}: no id; fill it in or remove the row")
    return row.text("id")


def _round(row: Row) -> int:
    text = row.text("round")
    if not text.isdecimal() or not 1 <= len(text) <= 7 or not 1 <= int(text) <= MOST_ROUND:
        raise DataError(f"{row.place}: round '{shortened(text)}'; give a whole number, 1 or more")
    return int(text)


def _confidence(row: Row) -> float | None:
    text = row.text("confidence")
    try:
        value = float(text) if text else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 <= value <= 1:
        raise DataError(f"{row.place}: confidence '{shortened(text)}'; give a number from 0 to 1")
    return value


def _names(row: Row, classes: Sequence[str]) -> tuple[str, ...]:
    text = row.text("label")
    names = parse_json(row.place, text) if text.startswith("[") and text not in classes else text.split("|")
    names = tuple(dict.fromkeys(str(name) for name in names if str(name))) if isinstance(names, list) else ("",)
    for name in names:
        if name not in classes:
            raise DataError(
                f"{row.place}: label '{shortened(name)}' is not one of its classes; {did_you_mean(name, classes)}"
            )
    return names


def _each_once(path: str | Path, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    if twice := next((id_ for id_ in ids if id_ in seen or seen.add(id_)), None):
        raise DataError(f"{path}: image '{shortened(twice)}' is in two rows; remove one")

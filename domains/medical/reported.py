"""Images and studies with their reports, and what tables of findings say of these: what `retrieval` and `pretrain`
learn from.

A report is found by the study that an image is of: by a column of its table, by MIMIC-CXR's names of files and folders,
else by the name of the image.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.contracts import Columns, DomainData, Item
from ...core.data import Format, Table, group_of, read_unlabelled
from ...core.errors import DataError, UnknownNameError, did_you_mean
from .layouts.phrases import MIMIC_PATH
from .reports.mentions import read_mentions
from .reports.reading import STUDY_COLUMNS, TEXT_COLUMNS, read_reports, study_of
from .reports.records import ABSENT, PRESENT, RESOLVED, UNCERTAIN, UNCHANGED, ReportFinding, read_findings
from .reports.sections import text_of
from .studies import column_called
from .targets import Reported, Viewed

VALUES = {PRESENT: 1.0, UNCHANGED: 1.0, ABSENT: -1.0, RESOLVED: -1.0, UNCERTAIN: 0.0}
"""State of a finding -> its value; what is of the past says nothing of today."""
UNKNOWN = math.nan


def read_plain_folder(path: Path, formats: Sequence[Format]) -> DomainData | None:
    """The images of a folder that has no table, whatever its folders are called; None of anything else. Those of a
    patient are told by DICOM headers and MIMIC-CXR's folders.

    Raises:
        DataError: it holds no image.
    """
    if not path.is_dir() or any(file.suffix.lower() in Table.SUFFIXES for file in path.iterdir()):
        return None
    data = read_unlabelled([path], formats)
    items = []
    for item in data.items:
        name = item.id.removeprefix(f"{path.as_posix()}/")
        patient = MIMIC_PATH.search(name)
        group = item.group if patient is None else group_of(patient["patient"])
        items.append(item.with_(id=name, group=group))
    return replace(data.with_items(items), name=path.resolve().name)


def with_reports(data: DomainData, path: Path, reading: Any) -> DomainData:
    """The samples that have a report, which is their caption.

    Args:
        data: as read, images or studies, whose targets stay.
        path: where it was read.
        reading: `reports`, a column, a table or a folder, None to look where they usually are; `report_part`, what of a
            report is learned; `findings`, a table of `vladapt curate findings`, or None; `entities`, a table of what
            reports mention, or None.

    Raises:
        DataError: no reports, none of these images, or no table of findings or entities.
        UnknownNameError: no such column.
    """
    columns = None if data.columns is None else data.columns()
    study = _studies(data.items, columns)
    text, place, further = _texts(data, path, columns, study, reading.reports)
    items, texts = [], {item.id: text_of(text(item), reading.report_part) for item in data.items}
    for item in data.items:
        if texts[item.id]:
            items.append(item.with_(target=_reported(item, texts[item.id])))
    if not items:
        raise DataError(
            f"{path}: none of the {len(data.items)} samples has a report in {place} ({reading.report_part}); name the "
            "right one by --reports, or another --report-part"
        )
    notes = [*data.notes, f"Reports: {place}; learned of each: {reading.report_part}."]
    if without := len(data.items) - len(items):
        notes.append(f"Samples without a report, left out: {without}.")
    if further:
        notes.append(f"Reports without a sample, left out: {further}.")
    known = {"findings": tuple(data.class_names)} if data.kind == "multilabel" else {}
    data = replace(data.with_items(items), kind="captions", notes=notes, number_names=known)
    if reading.findings is not None:
        data = _with_findings(data, Path(reading.findings), study)
    return data if reading.entities is None else _with_entities(data, Path(reading.entities), study)


def _reported(item: Item, text: str) -> Viewed | Reported:
    """The target with a report; the view that it is stays outside."""
    target = item.target
    if isinstance(target, Viewed):
        return replace(target, of=Reported((text,), target.of))
    return Reported((text,), target)


def _studies(items: Sequence[Item], columns: Columns | None) -> dict[str, str]:
    """Id of a sample -> the study that it is of."""
    cells: Mapping[str, str] = {}
    if columns is not None and (name := column_called(columns, STUDY_COLUMNS)) is not None:
        cells = columns.cells(name)
    return {item.id: cells.get(item.id) or study_of(item.id) for item in items}


def _texts(
    data: DomainData, path: Path, columns: Columns | None, study: Mapping[str, str], named: str | None
) -> tuple[Callable[[Item], str], str, int]:
    """(sample -> its report, "" for none; where that stands; how many reports are of no sample)."""
    if columns is not None and (column := _column_of_reports(columns, named)) is not None:
        cells = columns.cells(column)
        return lambda item: str(cells.get(item.id) or ""), f"column '{column}' of {columns.place}", 0
    if named is None and any(item.captions() for item in data.items):
        return lambda item: "\n".join(item.captions()), "the captions of the table", 0
    source = Path(named) if named is not None else path if path.is_dir() else path.parent
    if not source.exists() and source.suffix not in Table.SUFFIXES:
        raise DataError(f"{source}: no such file or folder; check --reports")
    try:
        reports = read_reports(source)
    except DataError as error:
        if named is not None:
            raise
        raise DataError(f"{path}: no reports ({error}); name a column, a table or a folder by --reports") from None
    keys = {item.id: _key_in(reports.texts, study[item.id], item.id) for item in data.items}
    further = len(reports.texts.keys() - keys.values())
    return lambda item: "" if (key := keys[item.id]) is None else reports.of(key), str(source), further


def _column_of_reports(columns: Columns, named: str | None) -> str | None:
    """The column that is named, or has a usual name; None where a file or folder is meant."""
    if named is None:
        return column_called(columns, TEXT_COLUMNS)
    if Path(named).exists() or "/" in named or named.endswith((*Table.SUFFIXES, ".txt")):
        return None
    if (column := column_called(columns, (named,))) is None:
        raise UnknownNameError(
            f"--reports {named}: {columns.place} has no such column; {did_you_mean(named, columns.names)}"
        )
    return column


def _key_in(studies: Container[str], study: str, name: str) -> str | None:
    """How a study of a sample of this name is called among others: by its id, with MIMIC's "s" or without, else as the
    sample; None where it is not among them."""
    keys = study, study_of(study), study_of(name), Path(name).stem
    return next((key for key in keys if key in studies), None)


def _with_findings(data: DomainData, table: Path, study: Mapping[str, str]) -> DomainData:
    """The samples with what a table says of their reports; classes are the findings of the set, else of the table."""
    records: dict[str, list[ReportFinding]] = defaultdict(list)
    for record in read_findings(table):
        if record.state in VALUES:
            records[record.study].append(record)
    of_all = [record for of_study in records.values() for record in of_study]
    names = data.class_names or tuple(sorted({record.finding for record in of_all}))
    positions = tuple(sorted({record.position for record in of_all if record.position}))
    items, silent = [], 0
    for item in data.items:
        by_finding: dict[str, list[ReportFinding]] = defaultdict(list)
        for record in records.get(_key_in(records, study[item.id], item.id) or "", ()):
            by_finding[record.finding].append(record)
        silent += by_finding.keys().isdisjoint(names)
        values = tuple(_value(record.state for record in by_finding.get(name, ())) for name in names)
        relations = tuple(_relations(by_finding.get(name, ()), positions) for name in names) if positions else ()
        items.append(item.with_(target=_with_numbers(item.target, findings=values, relations=relations)))
    if silent == len(items):
        raise DataError(f"{table}: of none of the {len(items)} studies; make it of the reports of this set")
    where = f" at {len(positions)} positions" if positions else ""
    note = f"Findings: {len(names)}{where}, of {table.name}; samples of which it says nothing: {silent}."
    number_names = {"findings": names, "positions": positions}
    return replace(data.with_items(items), class_names=names, notes=[*data.notes, note], number_names=number_names)


def _with_entities(data: DomainData, table: Path, study: Mapping[str, str]) -> DomainData:
    """The samples with the entities that a table says their reports mention, which are numbered as it names them."""
    places: dict[str, int] = {}
    of_study: dict[str, set[int]] = defaultdict(set)
    for mention in read_mentions(table):
        place = places.setdefault(mention.entity, len(places))
        if mention.study:
            of_study[mention.study].add(place)
    items, silent = [], 0
    for item in data.items:
        some = of_study.get(_key_in(of_study, study[item.id], item.id) or "", ())
        silent += not some
        numbers = {"entities": tuple(sorted(some)), "of_entities": len(places)}
        items.append(item.with_(target=_with_numbers(item.target, **numbers)))
    if silent == len(items):
        raise DataError(
            f"{table}: of none of the {len(items)} studies; give a column study, of the reports of this set"
        )
    note = f"Entities: {len(places)}, of {table.name}; samples of which it says nothing: {silent}."
    names = {**data.number_names, "entities": tuple(places)}
    return replace(data.with_items(items), notes=[*data.notes, note], number_names=names)


def _with_numbers(target: Any, **numbers: Any) -> Viewed | Reported:
    if isinstance(target, Viewed):
        return replace(target, of=_with_numbers(target.of, **numbers))
    return replace(target, **numbers)


def _value(states: Iterable[str]) -> float:
    """Of one finding: what is present anywhere is present; what is open anywhere else is uncertain."""
    return max((VALUES[state] for state in states), default=UNKNOWN)


def _relations(records: Sequence[ReportFinding], positions: Sequence[str]) -> tuple[float, ...]:
    """(P,) whether a finding is at each position: by what is said of that place, else by where it is, or that it is
    nowhere."""
    value = _value(record.state for record in records)
    placed = any(record.position for record in records if VALUES[record.state] == 1.0)
    elsewhere = 0.0 if value == -1.0 or (value == 1.0 and placed) else UNKNOWN
    row = dict.fromkeys(positions, elsewhere)
    for position in {record.position for record in records} & row.keys():
        here = _value(record.state for record in records if record.position == position)
        row[position] = {1.0: 1.0, -1.0: 0.0}.get(here, UNKNOWN)
    return tuple(row.values())

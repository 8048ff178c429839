"""Reports as hospitals and MIMIC-CXR keep them: a text file per study, or a column of a table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ....core.contracts import option, settle
from ....core.data import ItemCollector, Row, Table, read_table, shown, walk
from ....core.errors import DataError
from ....core.runtime import read_text

TEXT_COLUMNS = ("report", "report_text", "text", "findings", "impression", "report impression")
STUDY_COLUMNS = ("study_id", "study", "study_instance_uid", "StudyID", "accession_number", "uid", "report_id")
OF_MIMIC = re.compile(r"s(\d+)")
"""`files/p10/p10000032/s50414267.txt` is the report of study 50414267; so is an image in a folder of that name."""


@dataclass(frozen=True, kw_only=True)
class SourceForm:
    """What is told of a source of findings, and what of it is written."""

    text_column: str | None = option(
        None, "of a table: the reports; by default report, text, findings or the like", metavar="NAME"
    )
    study_column: str | None = option(
        None, "of a table: the study; by default study_id, study or the like", metavar="NAME"
    )
    vocabulary: str | None = option(
        None, 'further findings and their words, JSON: {"Hernia": ["hiatal hernia"]}', metavar="FILE"
    )
    array: str | None = option(None, "MedKLIP: the .npy of labels", metavar="FILE")
    entities: str | None = option(None, "MedKLIP: the JSON whose keys name the array's entities", metavar="FILE")
    without_text: bool = option(False, "write places in the reports alone, and no sentence of them")

    def __post_init__(self) -> None:
        settle(self, "findings")


@dataclass(frozen=True)
class Reports:
    """Reports by study; iterating gives (study, text), each file read when it is reached.

    Attributes:
        texts: id of a study -> its report, or the file that holds it.
    """

    texts: dict[str, str | Path]

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for study in self.texts:
            yield study, self.of(study)

    def of(self, study: str) -> str:
        """The report of one study, bytes that are not UTF-8 replaced.

        Raises:
            DataError: its file cannot be read.
        """
        text = self.texts[study]
        return text if isinstance(text, str) else read_text(text, lenient=True)


def read_reports(source: str | Path, text_column: str | None = None, study_column: str | None = None) -> Reports:
    """The reports of a folder of `.txt` files, of one such file, or of a table.

    Args:
        source: a folder, searched through; a file; or a table.
        text_column, study_column: of a table; by default those of usual names.

    Raises:
        DataError: nothing there; a report has no study, or two have one.
        UnknownNameError: the table has no column of that name.
    """
    source = Path(source)
    if source.is_dir():
        reports = _of_folder(source)
    elif source.suffix.lower() in Table.SUFFIXES:
        reports = _of_table(read_table(source), text_column, study_column)
    else:
        reports = {study_of(source.name): source}
    if not reports:
        raise DataError(f"{source}: no report there; give a folder of .txt files, or a table with a column of texts")
    return Reports(reports)


def study_of(name: str) -> str:
    """The id of the study that a file belongs to: by MIMIC's names, else the file's own name.

    Args:
        name: path below the folder of the set, with "/".
    """
    path = PurePosixPath(name)
    for part in (path.stem, *path.parts[-2:-1]):
        if (match := OF_MIMIC.fullmatch(part)) is not None:
            return match[1]
    return str(path.with_suffix(""))


def study_column_of(table: Table, named: str | None = None) -> str:
    """The column of the study.

    Raises:
        DataError: no column has a usual name.
        UnknownNameError: there is none of the name that is given.
    """
    return _column(table, named, "study_column", STUDY_COLUMNS, "names the study of a report")


def study_in(row: Row, column: str) -> str:
    """The study of a row; DataError where it names none."""
    study = row.text(column)
    if not study:
        raise DataError(f"{row.place}: a report without a study; fill in column '{column}', or remove the row")
    return study


def _of_folder(folder: Path) -> dict[str, str | Path]:
    reports: dict[str, str | Path] = {}
    for path in walk(folder, folder, ItemCollector()):
        if path.suffix.lower() == ".txt":
            study = study_of(shown(path, folder))
            if study in reports:
                raise DataError(f"{path}: a second report of its study, after {reports[study]}; keep one of them")
            reports[study] = path
    return reports


def _of_table(table: Table, text_column: str | None, study_column: str | None) -> dict[str, str | Path]:
    text = _column(table, text_column, "text_column", TEXT_COLUMNS, "holds the texts")
    column = study_column_of(table, study_column)
    reports: dict[str, str | Path] = {}
    for row in table.rows:
        study = study_in(row, column)
        if study in reports:
            raise DataError(f"{row.place}: a second report of its study; keep one row per study")
        reports[study] = "" if row.values.get(text) is None else str(row.values[text])
    return reports


def _column(table: Table, named: str | None, option: str, usual: tuple[str, ...], what: str) -> str:
    if named is not None:
        return table.column_named(named, option)
    column = table.column_of(usual)
    if column is None:
        flag = f"--{option.replace('_', '-')}"
        raise DataError(f"{table.path}: no column {what}; it has {', '.join(table.columns)}: name one by {flag}")
    return column

"""Findings of reports as records, and the one table that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from itertools import islice
from pathlib import Path

from ....core.data import csv_text, read_table
from ....core.errors import DataError
from ....core.runtime import replacing

PRESENT, ABSENT, UNCERTAIN, HISTORICAL = "present", "absent", "uncertain", "historical"
UNCHANGED, RESOLVED = "unchanged", "resolved"
STATES = (PRESENT, UNCHANGED, UNCERTAIN, ABSENT, RESOLVED, HISTORICAL)
"""`UNCHANGED` is present as before; `RESOLVED` was there and is not; `HISTORICAL` is of the past, and open today."""
AT_ONCE = 10_000


@dataclass(frozen=True)
class ReportFinding:
    """What a report says of one finding in one place.

    Attributes:
        study: id of the study that the report belongs to.
        finding: its name.
        state: of `STATES`.
        start, end: of its words in the report, in characters; None where the source tells of none.
        position: where in the body, as the source names it; "" for unknown.
        sentence: that says it; "" where texts are kept out.
    """

    study: str
    finding: str
    state: str
    start: int | None = None
    end: int | None = None
    position: str = ""
    sentence: str = ""


COLUMNS = tuple(field.name for field in fields(ReportFinding))


def write_findings(path: Path, findings: Iterable[ReportFinding], with_text: bool = True) -> dict[str, int]:
    """Write a table whole or not at all. Returns how many findings there are of each state.

    Raises:
        DataError: it cannot be written.
    """
    counts = dict.fromkeys(STATES, 0)
    rest = iter(findings)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_text(COLUMNS, ()))
        while some := list(islice(rest, AT_ONCE)):
            rows = [astuple(each if with_text else replace(each, sentence="")) for each in some]
            file.write(csv_text(COLUMNS, rows).partition("\n")[2])
            for each in some:
                counts[each.state] += 1
    return counts


def read_findings(path: Path) -> Iterator[ReportFinding]:
    """The findings of a table that `write_findings` made.

    Raises:
        DataError: not such a table, a state of another name, or a place that is no number.
    """
    table = read_table(path)
    if missing := [name for name in COLUMNS[:3] if name not in table.columns]:
        raise DataError(
            f"{path}: not a table of findings, it lacks {', '.join(missing)}; `vladapt curate findings` makes one"
        )
    for row in table.rows:
        values = {name: row.text(name) for name in COLUMNS}
        if values["state"] not in STATES:
            raise DataError(f"{row.place}: state '{values['state']}'; there are {', '.join(STATES)}")
        places = {name: values[name] for name in ("start", "end")}
        if not all(place == "" or place.isdecimal() for place in places.values()):
            raise DataError(f"{row.place}: start and end are characters of the report; give whole numbers, or nothing")
        yield ReportFinding(**{**values, **{name: int(place) if place else None for name, place in places.items()}})

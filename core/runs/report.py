"""report.html: one self-contained page for the run of any task, made of the sections that the task gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..runtime.files import write_whole
from .plots import curve_picture, data_uri


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a page shows.

    Attributes:
        kind: what is reported, above the title.
        lead: a sentence or two on the result, below the title.
        created: ISO time, or "".
        sections: see `sections.py`; None is left out.
        versions: of packages, in the footer.
        place: where the run lies and what its files hold, in the footer.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[Any]
    created: str | None = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    place: str = ""


def write_report(folder: str | Path, report: Report) -> Path:
    """Write report.html into a folder. Returns its path.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(folder) / "report.html"
    write_whole(path, render_report(report))
    return path


def render_report(report: Report) -> str:
    """The page as text. It loads nothing, runs nothing, and escapes every name it is given."""
    created = str(report.created or "")[:16].replace("T", " ")
    return _template().render(report=report, created=created)


@cache
def _template():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(picture=data_uri, plot=curve_picture)
    return environment.get_template("report.html.j2")

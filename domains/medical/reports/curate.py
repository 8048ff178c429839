"""From reports, or what others found in them, to one table of findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.data import Table, read_table
from ....core.errors import ConfigError
from ....core.runtime import Reporter, read_json
from .extraction import FindingExtractor
from .labelled import chexbert_columns, is_medklip, is_radgraph, read_chexbert, read_medklip, read_radgraph
from .reading import SourceForm, read_reports
from .records import ReportFinding, write_findings
from .vocabulary import phrases


@dataclass(frozen=True)
class CuratedReports:
    """What was written.

    Attributes:
        out: the table.
        source: "reports", "CheXbert", "RadGraph" or "MedKLIP".
        studies: how many have a finding at least.
        silent: how many reports have none; of tables that others made this is not known, and 0.
        findings: state -> how many there are of it.
        with_text: whether the table holds sentences.
    """

    out: Path
    source: str
    studies: int
    silent: int
    findings: dict[str, int]
    with_text: bool


TAKEN = {
    "reports": {"text_column", "study_column", "vocabulary"},
    "CheXbert": {"study_column"},
    "RadGraph": set(),
    "MedKLIP": {"array", "entities"},
}
"""Kind of source -> fields of `SourceForm` that say something of it."""


def curate_findings(
    source: str | Path,
    out: str | Path,
    form: SourceForm | None = None,
    *,
    reporter: Reporter | None = None,
) -> CuratedReports:
    """Write the table of findings of a source.

    Args:
        source: a folder of reports, one report, a table of reports or of CheXbert, JSON of RadGraph or MedKLIP.
        out: a `.csv`. Sentences of reports stand in it alone; nothing else is written.

    Raises:
        ConfigError: `out` is no `.csv`, an option is not of this source, or MedKLIP's files are not named.
        DataError: the source cannot be read, or the table not written.
        CapabilityError: spacy or negspacy is not installed.
    """
    source, out, form = Path(source), Path(out), form or SourceForm()
    if out.suffix.lower() != ".csv":
        raise ConfigError(f"--out {out}: the table of findings is a .csv; give such a name")
    kind, content = _recognised(source, form)
    for name, value in vars(form).items():
        if value and name not in {*TAKEN[kind], "without_text"}:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: has no effect on {kind} ({source}); omit it")
    studies: set[str] = set()
    silent = 0

    def findings() -> Iterator[ReportFinding]:
        nonlocal silent
        for found in _found(kind, content, source, form, reporter or Reporter(quiet=True)):
            silent += not found
            studies.update(each.study for each in found)
            yield from found

    counts = write_findings(out, findings(), not form.without_text)
    return CuratedReports(out, kind, len(studies), silent, counts, not form.without_text)


def _recognised(source: Path, form: SourceForm) -> tuple[str, Any]:
    """The kind of a source, and its content where others made it."""
    suffix = source.suffix.lower()
    if suffix == ".json" and source.is_file():
        content = read_json(source)
        if is_radgraph(content):
            return "RadGraph", content
        if is_medklip(content):
            if form.array is None or form.entities is None:
                raise ConfigError(f"{source}: MedKLIP's labels need --array FILE.npy and --entities FILE.json too")
            return "MedKLIP", content
    if suffix in Table.SUFFIXES and form.text_column is None and source.is_file():
        table = read_table(source)
        if chexbert_columns(table):
            return "CheXbert", table
    return "reports", None


def _found(
    kind: str, content: Any, source: Path, form: SourceForm, reporter: Reporter
) -> Iterator[list[ReportFinding]]:
    """Findings, those of one report together where the source is of reports."""
    if kind == "CheXbert":
        yield from ([each] for each in read_chexbert(content, form.study_column))
    elif kind == "RadGraph":
        yield from ([each] for each in read_radgraph(content, source))
    elif kind == "MedKLIP":
        yield from ([each] for each in read_medklip(content, source, Path(form.array or ""), Path(form.entities or "")))
    else:
        reports = read_reports(source, form.text_column, form.study_column)
        with reporter.task("findings", "reports") as progress:
            for done, found in enumerate(FindingExtractor(phrases(form.vocabulary)).findings(reports), start=1):
                yield found
                progress(done, len(reports))

"""Write a table of what radiology reports say: findings that are present, absent, uncertain, unchanged, resolved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ....core.commands import FromOptions, Json, echo, print_json, reporter
from ..reports.reading import SourceForm

GROUP = "curate"


def findings(
    source: Annotated[
        str,
        typer.Argument(
            metavar="REPORTS",
            help="A folder of .txt reports, a table with a column of reports, or what CheXbert (.csv), RadGraph or "
            "MedKLIP (.json) made of them.",
        ),
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The table, a .csv.")],
    how: Annotated[dict[str, Any], FromOptions(SourceForm)],
    as_json: Json = False,
) -> None:
    """Write a table of what radiology reports say of findings: study, finding, state, place in the text, sentence.

    Reports are read by phrases and NegEx (spaCy, negspacy); no model is downloaded.

    Example: vladapt curate findings ./files --out findings.csv --without-text
    """
    from ..reports.curate import curate_findings

    made = curate_findings(source, out, SourceForm(**how), reporter=reporter())
    if as_json:
        print_json(vars(made))
        return
    told = ", ".join(f"{state} {count:,}" for state, count in made.findings.items() if count)
    echo(f"Findings: {made.out} ({sum(made.findings.values()):,}; studies that have any: {made.studies:,})")
    echo(f"States:   {told or 'none'}")
    if made.silent:
        echo(f"Reports that mention none: {made.silent:,}")
    if not made.with_text or made.source in ("CheXbert", "MedKLIP"):
        echo("The table holds no sentence of a report.")
    else:
        echo("The table holds sentences of the reports: keep it as you keep the reports. No other file was written.")

"""Write a table of what radiology reports say: findings that are present, absent, uncertain, unchanged, resolved."""

from __future__ import annotations

from typing import Annotated

import typer

from ....core.commands import Json, echo, print_json, reporter

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
    text_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a table: the reports; by default report, text, findings, ...")
    ] = None,
    study_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a table: the study; by default study_id, study, ...")
    ] = None,
    vocabulary: Annotated[
        str | None,
        typer.Option(metavar="FILE", help='Further findings and their words, JSON: {"Hernia": ["hiatal hernia"]}.'),
    ] = None,
    array: Annotated[str | None, typer.Option(metavar="FILE", help="MedKLIP: the .npy of labels.")] = None,
    entities: Annotated[
        str | None, typer.Option(metavar="FILE", help="MedKLIP: the JSON whose keys name the array's entities.")
    ] = None,
    without_text: Annotated[
        bool, typer.Option("--without-text", help="Write places in the reports alone, and no sentence of them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a table of what radiology reports say of findings: study, finding, state, place in the text, sentence.

    Reports are read by phrases and NegEx (spaCy, negspacy); no model is downloaded.

    Example: vladapt curate findings ./files --out findings.csv --without-text
    """
    from ..reports.curate import SourceForm, curate_findings

    form = SourceForm(
        text_column=text_column, study_column=study_column, vocabulary=vocabulary, array=array, entities=entities
    )
    made = curate_findings(source, out, form, with_text=not without_text, reporter=reporter())
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

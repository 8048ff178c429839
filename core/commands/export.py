"""A run taken elsewhere: `export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..contracts.use import ExportWishes
from .options import FromOptions, FromUse, Json, OwnBackbone, Run
from .tables import echo, echo_notes, print_json, reporter


def export(
    run: Run,
    how: Annotated[dict[str, Any], FromUse("export")],
    out: Annotated[str, typer.Option(metavar="DIR", help="New folder for the graphs.")],
    graph: Annotated[dict[str, Any], FromOptions(ExportWishes)],
    backbone: OwnBackbone = None,
    as_json: Json = False,
) -> None:
    """Write a run as ONNX graphs that need neither vladapt nor torch, compared with the run on its test images.

    Example: vladapt export runs/20260101-120000-medical-ape-1a2b --out model
    """
    from ..engine.export import export as engine_export

    made = engine_export(run, out, backbone=backbone, reporter=reporter(), **graph, **how)
    if as_json:
        print_json({"export": str(made.folder), "files": [file.name for file in made.files], **made.facts})
        return
    for line in made.lines:
        echo(line)
    echo_notes(made.notes)
    echo(f"Written: {', '.join(str(file) for file in made.files)}")


COMMANDS = {"export": export}

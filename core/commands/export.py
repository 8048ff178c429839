"""A run taken elsewhere: `export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .options import Debug, FromUse, Json, OwnBackbone, Run
from .tables import echo, echo_notes, print_json, reporter


def export(
    run: Run,
    how: Annotated[dict[str, Any], FromUse("export")],
    out: Annotated[str, typer.Option(metavar="DIR", help="New folder for the graphs.")],
    format: Annotated[str, typer.Option(metavar="onnx", help="Format of the graphs.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write an 8-bit graph, which predict.py then uses.")
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="Version of ONNX's operators; by default 18.")] = None,
    backbone: OwnBackbone = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run as ONNX graphs that need neither vladapt nor torch, compared with the run on its test images.

    Example: vladapt export runs/20260101-120000-medical-ape-1a2b --out model
    """
    from ..engine.export import export as engine_export

    graph = {"format": format, "int8": int8, "opset": opset}
    made = engine_export(run, out, **graph, backbone=backbone, reporter=reporter(), **how)
    if as_json:
        print_json({"export": str(made.folder), "files": [file.name for file in made.files], **made.facts})
        return
    for line in made.lines:
        echo(line)
    echo_notes(made.notes)
    echo(f"Written: {', '.join(str(file) for file in made.files)}")


COMMANDS = {"export": export}

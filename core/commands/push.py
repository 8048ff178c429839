"""A run handed on: `push`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..engine.options import PushOptions
from .options import FromOptions, Json
from .tables import echo, echo_notes, print_json


def push(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository's name on the Hugging Face hub.")],
    how: Annotated[dict[str, Any], FromOptions(PushOptions)],
    as_json: Json = False,
) -> None:
    """Write a run as a folder in the layout of the Hugging Face hub, with a card; upload it only with --upload.

    Example: vladapt push runs/20260101-120000-medical-ape-1a2b me/blood-cells --licence apache-2.0
    """
    from ..engine.push import push as engine_push

    pushed = engine_push(run, repo, **how)
    if as_json:
        files = [file.name for file in pushed.files]
        address = {"address": pushed.address} if pushed.address else {}
        print_json({"folder": str(pushed.folder), "files": files, "notes": pushed.notes, **address})
        return
    echo_notes(pushed.notes)
    echo(f"Written: {', '.join(str(file) for file in pushed.files)}")
    if pushed.address:
        echo(f"Uploaded: {pushed.address}")
        echo(f"Load it with: vladapt predict hf:{repo} IMAGES")
    else:
        echo(f"Read and correct {pushed.folder / 'README.md'}; then the same command with --upload uploads the folder.")


COMMANDS = {"push": push}

"""A run handed on: `push`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Debug, Json
from .tables import echo, echo_notes, print_json


def push(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository's name on the Hugging Face hub.")],
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="New folder for the files; by default NAME in the current folder.")
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="Upload the folder; without this option no network is used.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; by default it is private.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence of the adapter, as spelt on the hub: apache-2.0, ...")
    ] = None,
    data_licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Licence of the data; by default the one that the run recorded.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the data for the card, OWNER/NAME if on the hub.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run as a folder in the layout of the Hugging Face hub, with a card; upload it only with --upload.

    Example: vladapt push runs/20260101-120000-medical-ape-1a2b me/blood-cells --licence apache-2.0
    """
    from ..engine.push import push as engine_push

    pushed = engine_push(
        run,
        repo,
        out=out,
        upload=upload,
        public=public,
        licence=licence,
        data_licence=data_licence,
        dataset=dataset,
    )
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

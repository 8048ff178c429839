"""A run or an export that answers requests: `serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Device, Json, Resource, resources_of
from .tables import echo, print_json


def serve(
    model: Annotated[
        str, typer.Argument(metavar="RUN|EXPORT", help="A run folder, or a folder that `vladapt export` wrote.")
    ],
    host: Annotated[
        str, typer.Option(metavar="NAME", help="Address to listen on; any but this machine's own needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="T", help="Token that requests must carry; by default $VLADAPT_TOKEN, which ps does not show."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Worker processes, each with a copy of the model.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per batch through the model; measured by default.")
    ] = None,
    max_mb: Annotated[int | None, typer.Option(metavar="N", help="Largest request in MB; by default 64.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most pixels of an image; by default 64000000.")
    ] = None,
    queue: Annotated[
        int | None,
        typer.Option(metavar="N", help="Images that may wait; further ones are refused with 503. By default 256."),
    ] = None,
    device: Device = None,
    resource: Resource = None,
    as_json: Json = False,
) -> None:
    """Serve a run or an export: POST /predict, /health, /metrics, and a page to drop pictures on.

    Example: vladapt serve runs/20260101-120000-medical-ape-1a2b --port 8000
    """
    from ..engine.serve import serve as engine_serve

    def opened(address: str) -> None:
        if as_json:
            print_json({"address": address, "model": model, "workers": workers})

    engine_serve(
        model,
        host=host,
        port=port,
        token=token,
        workers=workers,
        device=device,
        batch_size=batch_size,
        max_mb=max_mb,
        max_pixels=max_pixels,
        queue=queue,
        resources=resources_of(resource),
        opened=opened,
        told=lambda line: typer.echo(line, err=True),
    )
    if not as_json:
        echo("Stopped.")


COMMANDS = {"serve": serve}

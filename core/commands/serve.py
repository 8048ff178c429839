"""A run or an export that answers requests: `serve`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..engine.options import ServeOptions
from .options import Device, FromOptions, Json, OwnBackbone, Resource, resources_of
from .tables import echo, print_json


def serve(
    model: Annotated[
        str, typer.Argument(metavar="RUN|EXPORT", help="A run folder, or a folder that `vladapt export` wrote.")
    ],
    how: Annotated[dict[str, Any], FromOptions(ServeOptions)],
    device: Device = None,
    backbone: OwnBackbone = None,
    resource: Resource = None,
    as_json: Json = False,
) -> None:
    """Serve a run or an export: POST /predict, /health, /metrics, and a page to drop pictures on.

    Example: vladapt serve runs/20260101-120000-medical-ape-1a2b --port 8000
    """
    from ..engine.serve import serve as engine_serve

    def opened(address: str) -> None:
        if as_json:
            print_json({"address": address, "model": model, "workers": how.get("workers", ServeOptions.workers)})

    engine_serve(
        model,
        device=device,
        backbone=backbone,
        resources=resources_of(resource),
        opened=opened,
        told=lambda line: typer.echo(line, err=True),
        **how,
    )
    if not as_json:
        echo("Stopped.")


COMMANDS = {"serve": serve}

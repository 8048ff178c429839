"""Open a page on this machine to accept, correct, drop and add boxes that a model drew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ....core.commands import Json, echo, print_json


def review(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder that `vladapt predict --as coco` or yolo or voc wrote.")
    ],
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; by default any that is free.")] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the decisions into the labels without opening the page.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Open a page on this machine to accept, correct, drop and add boxes that a model drew.

    Each decision is kept in review.jsonl at once; the labels are written when the page is stopped with Ctrl-C.

    Example: vladapt review labelled --open
    """
    from ..labels.review import Review

    if not apply:
        Review.require_server()
    page = Review(Path(folder))
    try:
        counts = page.apply()  # of a page that was killed
        images = len(page.images)
        if not apply and images:

            def opened(address: str) -> None:
                if as_json:
                    print_json({"address": address, "images": images, "reviewed": counts["images"]})
                    return
                echo(f"Review {images} images ({counts['images']} done): {address}")
                echo("Each decision is kept at once. Stop with Ctrl-C; the same command continues.")

            try:
                page.serve(port, show, opened)
            finally:
                counts = page.apply()
    finally:
        page.close()
    if apply and as_json:
        print_json({"unreviewed": images - counts["images"], **counts})
    elif not as_json:
        summary = ", ".join(f"{name} {counts.get(name, 0)}" for name in ("accepted", "corrected", "dropped", "added"))
        echo(f"{counts['images']} of {images} images reviewed; boxes: {summary}. Fit: vladapt fit --data {folder}")

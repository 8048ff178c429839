"""What there is: `list`, `show`, `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Debug, Json, Sets, recipe_of
from .printing import print_json, say, show_table


def register(app: typer.Typer) -> None:
    """Add these commands to the app, in the order of `vladapt --help`."""
    app.command("list")(list_names)
    app.command()(show)
    app.command()(doctor)


def list_names(
    what: Annotated[str, typer.Argument(help="domains, adapters, backbones, losses or recipes.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what there is, without importing it.

    Example: vladapt list adapters
    """
    from ..engine.listing import listing

    rows = listing(what)
    if as_json:
        print_json({what: rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        say(f"{row['name']:<{width}}  {row['what']}".rstrip())


def show(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe.")],
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a recipe as it would run, every default filled in; a config for mmdet or mmsegmentation as it is, to copy.

    Example: vladapt show medical/default
    """
    from mmengine import Config

    resolved = recipe_of(recipe, None, sets, {})
    shown = Config(resolved.plan.to_dict()) if resolved.plan else resolved
    if as_json:
        print_json(shown.to_dict())
    else:
        say(shown.pretty_text.strip())


def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what is installed, which device there is, which caches, what is missing and how to get it.

    Example: vladapt doctor
    """
    from ..engine.doctor import examine
    from ..engine.tables import findings_table

    findings = examine()
    if as_json:
        print_json({"findings": [vars(f) for f in findings]})
    else:
        show_table(findings_table(findings))

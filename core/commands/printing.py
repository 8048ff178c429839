"""What commands print, on the one process that prints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import typer

from ..runtime.exits import is_main_rank


def reporter():
    """Progress on stderr; silent on the other ranks."""
    from ..runtime.progress import Reporter

    return Reporter(quiet=not is_main_rank())


def show_table(table) -> None:
    """A rich table, as wide as the terminal."""
    if not is_main_rank():
        return
    from rich.console import Console

    Console(highlight=False, markup=False).print(table)


def say(text: str) -> None:
    """A line on stdout; nothing for an empty text."""
    if text and is_main_rank():
        typer.echo(text)


def say_skipped(pairs: Iterable[tuple[str, str]]) -> None:
    """A line each of what was left out, and why; the reason may begin with the name again."""
    for name, reason in pairs:
        say(f"Skipped: {name}: {reason.removeprefix(f'{name}: ')}")


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    if is_main_rank():
        typer.echo(json.dumps(value, default=str, allow_nan=False))

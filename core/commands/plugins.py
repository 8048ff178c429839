"""Commands that domains bring: `domains/<d>/commands/*.py`, and the entry points `vladapt.commands`.

A command's file has its name, and one function of that name, with Typer's annotations. `GROUP = "curate"` in the file
makes it a command of that group. A file is imported when its command is called; for `--help` its docstring is read.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence

import typer

from ..errors import ConfigError
from ..registry.catalogue import PACKAGE, Entry, commands

GROUP = "GROUP"


def register(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands of domains to the app.

    Raises:
        ConfigError: one has the name of a command that is there, or its file defines no function of its name.
    """
    taken = {info.name or info.callback.__name__.replace("_", "-") for info in app.registered_commands}
    groups: dict[str, typer.Typer] = {}
    for name, entry in commands().items():
        group, title = _said(entry)
        if name in taken and not group:
            raise ConfigError(f"command '{name}' is taken twice: by vladapt and by {entry.origin}; rename one")
        if group and group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True, help=f"Commands that {group}.")
            app.add_typer(groups[group], name=group)
        where = groups[group] if group else app
        called = name in arguments
        where.command(name, help=None if called else title)(_function(entry) if called else _not_called)


def _not_called() -> None:
    """Stands in `--help` for a command that is not called."""


def _function(entry: Entry):
    """The function of a command.

    Raises:
        ConfigError: its file has none.
    """
    if entry.entry_point is not None:
        return entry.entry_point.load()
    module = importlib.import_module(f"{PACKAGE}.{entry.module}")
    function = getattr(module, entry.module.rpartition(".")[2], None)
    if not callable(function):
        raise ConfigError(f"command '{entry.name}' ({entry.origin}) defines no function of its name")
    return function


def _said(entry: Entry) -> tuple[str, str]:
    """(group, first line of the docstring), told from the source; of an entry point the group is before a dot."""
    if entry.file is None:
        return "", f"From {entry.origin}."
    tree = ast.parse(entry.file.read_text(encoding="utf-8"))
    groups = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == GROUP
    ]
    text = ast.get_docstring(tree) or ""
    return (groups[0] if groups else ""), (text.splitlines() or [""])[0]

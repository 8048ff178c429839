"""`list`: names and one line on each, told from file names and docstrings, importing nothing."""

from __future__ import annotations

import ast
from pathlib import Path

from ..backbones.catalogue import FAMILIES
from ..contracts.errors import UnknownNameError
from ..registry import catalogue
from ..registry.catalogue import Entry, did_you_mean

KINDS = ("domains", "adapters", "backbones", "losses", "recipes")


def listing(what: str) -> list[dict[str, str]]:
    """Rows {"name", "what"} of domains, adapters, backbones, losses or recipes.

    Raises:
        UnknownNameError: something else is asked for.
    """
    if what not in KINDS:
        raise UnknownNameError(f"cannot list '{what}'; {did_you_mean(what, KINDS)}")
    if what == "backbones":
        return [{"name": f["spec"], "what": f["what"]} for f in FAMILIES.values()]
    if what == "recipes":
        from ..recipes.packaged import recipes

        return [{"name": name, "what": _first_line(path)} for name, path in recipes().items()]
    entries = {"domains": catalogue.domains, "adapters": catalogue.adapters, "losses": catalogue.losses}[what]()
    return [{"name": name, "what": _describe(entry)} for name, entry in sorted(entries.items())]


def _describe(entry: Entry) -> str:
    if entry.entry_point is not None:
        return f"from {entry.origin}"
    path = catalogue.PACKAGE_ROOT.joinpath(*entry.module.split("."))
    return _first_line(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return text.splitlines()[0] if text else ""

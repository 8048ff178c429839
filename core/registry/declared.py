"""Options that domains declare for their readers and their tasks, told from source files: nothing is imported.

A domain's class names the dataclass of its reader's options (`reading = Reading`), a task that of its own
(`options = Options`); fields made by `option` are the options. Those of domains outside this package are told by
importing them, when they are named.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .catalogue import PACKAGE_ROOT, domains, kebab

SHARED = ("core", "contracts", "domain.py")
"""Where the options stand that every reader has."""
READING, OPTIONS = "reading", "options"


@dataclass(frozen=True)
class Declared:
    """One option by its name, of one domain or several.

    Args:
        kind: "reading" of a reader, or "options" of a task.
        help: by domain.
    """

    name: str
    kind: str
    help: dict[str, str]

    @property
    def key(self) -> str:
        """The recipe's key."""
        return f"data.{self.name}" if self.kind == READING else self.name


def declared_options(named: str | None = None) -> list[Declared]:
    """Options of all domains of this package, and of `named` where it is another's.

    Args:
        named: a domain's name.
    """
    found: dict[tuple[str, str], Declared] = {}
    for domain, kind, name, text in [*_of_this_package(), *_of_another(named)]:
        found.setdefault((kind, name), Declared(name, kind, {})).help[domain] = text
    return list(found.values())


def _of_this_package() -> Iterator[tuple[str, str, str, str]]:
    shared = _classes([PACKAGE_ROOT.joinpath(*SHARED)])
    for folder in sorted((PACKAGE_ROOT / "domains").iterdir()):
        if folder.is_dir():
            classes = {**shared, **_classes([*sorted(folder.glob("*.py")), *sorted(folder.glob("tasks/*.py"))])}
            for kind, owner in _owners(classes):
                for name, text in _fields(owner, classes, shared).items():
                    yield kebab(folder.name), kind, name, text


def _of_another(named: str | None) -> Iterator[tuple[str, str, str, str]]:
    entry = domains().get(named or "")
    if entry is None or entry.entry_point is None:
        return
    from ..contracts.options import options_of
    from .build import load_domain, task_class

    domain = load_domain(named)
    tasks = [task_class(task) if isinstance(task, str) else task for task in domain.tasks]
    for kind, cls in [(READING, domain.reading), *((OPTIONS, task.options) for task in tasks)]:
        for each in options_of(cls) if cls is not None else ():
            yield named, kind, each.name, each.help


def _classes(files: list[Path]) -> dict[str, ast.ClassDef]:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _owners(classes: dict[str, ast.ClassDef]) -> list[tuple[str, str]]:
    """(kind, name of the dataclass) that some class names as its reader's or its task's options."""
    owners = []
    for cls in classes.values():
        for node in cls.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            kind, value = getattr(target, "id", ""), getattr(node, "value", None)
            if kind in (READING, OPTIONS) and isinstance(value, ast.Name) and value.id in classes:
                owners.append((kind, value.id))
    return list(dict.fromkeys(owners))


def _fields(owner: str, classes: dict[str, ast.ClassDef], shared: dict[str, ast.ClassDef]) -> dict[str, str]:
    """Name -> help of the `option` fields of a class and of its bases."""
    cls = classes[owner]
    fields: dict[str, str] = {}
    for base in cls.bases:
        name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
        if name in shared and shared[name] is not cls:
            fields.update(_fields(name, shared, shared))
        elif name in classes and classes[name] is not cls:
            fields.update(_fields(name, classes, shared))
    for node in cls.body:
        call = getattr(node, "value", None)
        if isinstance(node, ast.AnnAssign) and isinstance(call, ast.Call) and getattr(call.func, "id", "") == "option":
            texts = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "help")]
            fields[node.target.id] = next((text.value for text in texts if isinstance(text, ast.Constant)), "")
    return fields

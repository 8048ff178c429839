"""Options that domains and their tasks declare, told by reading their files: a command line imports no domain for it.

A domain's class names the dataclass of its reader's options (`reading = Reading`), a task that of its own (`options =
Options`); fields made by `option` are the options. A domain that lists a task of another one has its options too. Those
of domains outside this package are told by importing them, when they are named.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..registry.catalogue import PACKAGE_ROOT, domains, kebab

SHARED = ("core", "contracts", "domain.py")
"""Where the options stand that every reader has."""
READING, OPTIONS = "reading", "options"
DOCTOR, DOCTOR_FILE, DOCTOR_OPTIONS = "doctor", "doctor.py", "DoctorOptions"
"""What `vladapt doctor` takes: the class of this name in the file of this name in a domain's folder."""


@dataclass(frozen=True)
class Declared:
    """One option by its name, of one domain or several.

    Args:
        kind: "reading" of a reader, "options" of a task, or "doctor".
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
    declared: dict[tuple[str, str], Declared] = {}
    for domain, kind, name, text in [*_of_this_package(), *_of_another(named)]:
        declared.setdefault((kind, name), Declared(name, kind, {})).help[domain] = text
    return list(declared.values())


@functools.cache
def doctor_options() -> tuple[Declared, ...]:
    """Options of `vladapt doctor` that domains of this package declare (`core/engine/doctor.py`)."""
    shared = _classes([PACKAGE_ROOT.joinpath(*SHARED)])
    declared: dict[str, Declared] = {}
    for file in sorted((PACKAGE_ROOT / "domains").glob(f"*/{DOCTOR_FILE}")):
        classes = _classes([file])
        if DOCTOR_OPTIONS in classes:
            for name, text in _fields(DOCTOR_OPTIONS, classes, shared).items():
                declared.setdefault(name, Declared(name, DOCTOR, {})).help[kebab(file.parent.name)] = text
    return tuple(declared.values())


@functools.cache
def declared_switches() -> frozenset[str]:
    """Flags of the options that are yes or no and are no where they are not given: they may stand alone for yes."""
    found = set()
    for file in (
        file
        for pattern in ("domains/*/*.py", "domains/*/tasks/*.py", "core/tasks/*/*.py")
        for file in sorted(PACKAGE_ROOT.glob(pattern))
    ):
        for cls in _classes([file]).values():
            found |= {f"--{node.target.id.replace('_', '-')}" for node in cls.body if _is_switch(node)}
    return frozenset(found)


def _is_switch(node: ast.stmt) -> bool:
    """`name: bool = option(False, ...)`."""
    call = getattr(node, "value", None)
    if (
        not isinstance(node, ast.AnnAssign)
        or getattr(node.annotation, "id", "") != "bool"
        or not isinstance(call, ast.Call)
    ):
        return False
    default = call.args[0] if call.args else None
    return getattr(call.func, "id", "") == "option" and isinstance(default, ast.Constant) and default.value is False


@functools.cache
def _of_this_package() -> tuple[tuple[str, str, str, str], ...]:
    """(domain, kind, name, help) of each option; the files are read once per process."""
    return tuple(_read_options())


def _read_options() -> Iterator[tuple[str, str, str, str]]:
    shared = _classes([PACKAGE_ROOT.joinpath(*SHARED)])
    folders = _folders("domains")
    found = {
        kebab(folder.name): {**shared, **_classes([*sorted(folder.glob("*.py")), *sorted(folder.glob("tasks/*.py"))])}
        for folder in folders
    }
    shared_tasks = {kebab(each.name): _classes(sorted(each.glob("*.py"))) for each in _folders("core", "tasks")}
    for domain, own in found.items():
        tasks = {word for cls in own.values() for word in _words(cls, "tasks")}
        for classes in (shared_tasks[task] for task in sorted(tasks & shared_tasks.keys())):
            for kind, owner in _owners(classes, classes):
                for name, text in _fields(owner, classes, shared).items():
                    yield domain, kind, name, text
        for other, classes in found.items():
            of = own if other == domain else {name: cls for name, cls in classes.items() if tasks & _words(cls, "name")}
            for kind, owner in _owners(of, classes):
                for name, text in _fields(owner, classes, shared).items():
                    yield domain, kind, name, text


def _folders(*place: str) -> list[Path]:
    return sorted(folder for folder in PACKAGE_ROOT.joinpath(*place).glob("*") if folder.is_dir())


def _of_another(named: str | None) -> Iterator[tuple[str, str, str, str]]:
    entry = domains().get(named) if named else None
    if entry is None or entry.entry_point is None:
        return
    from ..contracts.options import options_of
    from ..registry.build import load_domain, task_class

    domain = load_domain(named)
    tasks = [task_class(task) if isinstance(task, str) else task for task in domain.tasks]
    for kind, cls in [(READING, domain.reading), *((OPTIONS, task.options) for task in tasks)]:
        for each in options_of(cls) if cls is not None else ():
            yield named, kind, each.name, each.help


def _classes(files: list[Path]) -> dict[str, ast.ClassDef]:
    """Classes of modules, by name; a file that is no Python yet is for whoever imports it to complain of."""
    classes = {}
    for file in files:
        with suppress(SyntaxError, UnicodeDecodeError):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            classes |= {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return classes


def _words(cls: ast.ClassDef, name: str) -> set[str]:
    """Texts that a class attribute is set to."""
    values = [node.value for node in cls.body if isinstance(node, ast.Assign) and _named(node) == name]
    return {node.value for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)}


def _named(node: ast.stmt) -> str:
    """What is assigned to."""
    return getattr(node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None), "id", "")


def _owners(of: dict[str, ast.ClassDef], classes: dict[str, ast.ClassDef]) -> list[tuple[str, str]]:
    """(kind, name of the dataclass) that some class of `of` names as its reader's or its task's options."""
    owners = []
    for cls in of.values():
        for node in cls.body:
            kind, value = _named(node), getattr(node, "value", None)
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

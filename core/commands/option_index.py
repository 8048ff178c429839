"""What `make index` makes: the index of options of each folder (`declared.py`), and `__init__.pyi` and `api.pyi`, the
types of the public names, which are imported when they are first used.

Functions that take options as keywords (`keywords` in `core/contracts/options.py`) are written out with each of them,
`fit` with those of all domains besides, `evaluate` and `predict` with those of judgements.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from ..contracts.options import Option, annotation
from ..contracts.recipe import GROUPS, KEYS
from ..registry.catalogue import PACKAGE, PACKAGE_ROOT
from .declared import declared_options, index_text, judgement_options, option_folders, write_index
from .options import JUDGED

FILE, API_FILE = PACKAGE_ROOT / "__init__.pyi", PACKAGE_ROOT / "api.pyi"
HEAD = '"""Types of the public names. Made by `make index`; do not edit."""'
STANDARD = {"Any": "typing", "Literal": "typing", "Path": "pathlib"}
STANDARD |= dict.fromkeys(("Callable", "Iterable", "Iterator", "Mapping", "Sequence"), "collections.abc")
"""Word of an annotation -> the module that has it."""
PLACES = ("PATH", "FILE", "DIR")
"""Metavars of what names a file or folder."""


def stub_text() -> str:
    """The content of `__init__.pyi`."""
    package = importlib.import_module(PACKAGE)
    imports: dict[str, set[str]] = {}
    functions, aliases = [], []
    for module, names in package.HOMES.items():
        for name in names.split():
            value = getattr(package, name)
            if isinstance(value, types.ModuleType):
                parent, _, own = value.__name__.removeprefix(f"{PACKAGE}.").rpartition(".")
                imports.setdefault(f".{parent}", set()).add(own)
                aliases.append(f"{name} = {own}")
                continue
            if _takes_options(value):
                functions.append(_function(value, imports))
            else:
                imports.setdefault(_home(value, module), set()).add(f"{name} as {name}")
    return _text(imports, ["__version__: str", *aliases], functions)


def api_stub_text() -> str:
    """The content of `api.pyi`: what the package gives too has its types there, all else where it is defined."""
    package, api = importlib.import_module(PACKAGE), importlib.import_module(f"{PACKAGE}.api")
    imports: dict[str, set[str]] = {}
    functions = []
    for module, names in api.HOMES.items():
        for name in names.split():
            value = getattr(api, name)
            if name not in dir(package) and _takes_options(value):
                functions.append(_function(value, imports))
            else:
                home = "." if name in dir(package) else _defining(value, module)
                imports.setdefault(home, set()).add(f"{name} as {name}")
    return _text(imports, ["SECTIONS: dict[str, dict[str, str]]", "HOMES: dict[str, str]"], functions)


def _text(imports: dict[str, set[str]], lines: list[str], functions: list[str]) -> str:
    """A stub of imports, lines, and functions written out."""
    words = set(re.findall(r"\w+", "".join(functions)))
    for word in words & STANDARD.keys():
        imports.setdefault(STANDARD[word], set()).add(f"{word} as {word}")
    imports = {module: names - imports.get(".", set()) if module != "." else names for module, names in imports.items()}
    return "\n".join([HEAD, "", *_imports(imports), *lines, *functions]) + "\n"


def _takes_options(value: Any) -> bool:
    """Whether it is a function with `keywords`."""
    return inspect.isfunction(value) and hasattr(value, "options")


def _imports(imports: dict[str, set[str]]) -> Iterator[str]:
    for inside in (False, True):
        for module in sorted(module for module in imports if module.startswith(".") == inside):
            yield from (f"from {module} import {name}" for name in sorted(imports[module]))
        yield ""


def _home(value: Any, listed: str) -> str:
    """The module that defines a value, relative to the package."""
    module = getattr(value, "__module__", None) or f"{PACKAGE}.{listed}"
    return f".{module.removeprefix(f'{PACKAGE}.')}"


def _function(function: Any, imports: dict[str, set[str]]) -> str:
    """A function with the annotation of each parameter, on a line of its own."""
    hints, options = typing.get_type_hints(function), function.options
    lines, keyword = [], False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            lines.append("*")
        kind = hints.get(name, parameter.annotation)
        _take(kind, imports)
        default = "" if parameter.default is inspect.Parameter.empty else " = ..."
        lines.append(f"{name}: {_accepted(options.get(name), annotation(kind))}{default}")
    taken = {line.partition(":")[0] for line in lines}
    name = function.__name__
    further = [
        *(declared_options() if name == "fit" else ()),
        *(judgement_options(JUDGED[name]) if name in JUDGED else ()),
    ]
    declared = {each.name: each.type for each in further if each.name not in taken}
    lines += [f"{name}: {_wide(kind)} = ..." for name, kind in sorted(declared.items())]
    _take(hints["return"], imports)
    listed = "".join(f"    {line},\n" for line in lines)
    return f"\ndef {name}(\n{listed}) -> {annotation(hints['return'])}: ..."


def _accepted(each: Option | None, kind: str) -> str:
    """What a keyword accepts: a group also as one word, a place also as a path, a value that is parsed also as text."""
    if each is None:
        return _wide(kind)
    if each.name in GROUPS and each is KEYS[each.name]:
        return _wide(f"str | Path | {kind}")
    kind = f"{kind} | Path" if each.bounds.metavar in PLACES else kind
    return _wide(f"{kind} | str" if each.bounds.parse is not None else kind)


def _wide(kind: str) -> str:
    """Any sequence for a tuple or list, any mapping for a dictionary, each member once, None at the end."""
    kind = re.sub(r"tuple\[(\w+(?: \| \w+)*), \.\.\.\]", r"Sequence[\1]", kind)
    kind = re.sub(r"\bdict\[", "Mapping[", re.sub(r"\blist\[", "Sequence[", kind))
    members = list(dict.fromkeys(re.split(r" \| (?![^\[]*\])", kind)))
    if "Any" in members:
        return "Any"
    return " | ".join([*(each for each in members if each != "None"), *(["None"] if "None" in members else [])])


def _take(kind: Any, imports: dict[str, set[str]]) -> None:
    """Note the classes of this package that an annotation names."""
    for inner in typing.get_args(kind):
        _take(inner, imports)
    module = getattr(kind, "__module__", "")
    if isinstance(kind, type) and module.startswith(f"{PACKAGE}."):
        imports.setdefault(_home(kind, ""), set()).add(f"{kind.__name__} as {kind.__name__}")


def _defining(value: Any, listed: str) -> str:
    """The module that defines a class or a function, the listed one of a constant; relative to the package."""
    named = isinstance(value, (type, types.FunctionType))
    return _home(value, listed) if named else f".{listed}"


if __name__ == "__main__":
    for folder in option_folders():
        write_index(folder, index_text(folder))
    FILE.write_text(stub_text(), encoding="utf-8")
    API_FILE.write_text(api_stub_text(), encoding="utf-8")

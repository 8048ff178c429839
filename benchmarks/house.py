"""How much of the package one has to carry to use or to change it, and how much it was before.

    python benchmarks/house.py            # all rows but those that run a fit
    python benchmarks/house.py --entered  # the files that a fit enters, too; takes half a minute

Rows are counted in our own source, in the graph of its imports, and in what `fit --help` prints; those of commit
9b9a365d were counted by this script, too.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grimp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from usage import print_help

import vladapt

ROOT = Path(vladapt.__file__).resolve().parent
FOLDERS = ("core", "adapters", "domains")
ENTERED = ("fit", "--domain", "medical", "--data", "sample", "--adapter", "tip-adapter", "--shots", "4")
HOLDS_RECIPES = re.compile(
    r"core/(contracts|recipes|engine|commands)/|core/tasks/(\w+/)?(task|base)\.py$|domains/\w+/tasks/"
)
"""Where a function may take the whole recipe."""


class Row(NamedTuple):
    """One row of the table.

    Args:
        before: the same at 9b9a365d.
        goal: the most that is wanted, in words.
    """

    what: str
    now: str
    before: str
    goal: str


class Named(NamedTuple):
    """A name that an adapter or a domain imports from a room of `core`.

    Args:
        room: "metrics"; "metrics.intervals" where a file inside it is named.
        name: of a class, function or constant.
        user: the folder that imports it, "adapters.cache" or "domains.video"; or a file beside such folders.
    """

    room: str
    name: str
    user: str


@cache
def sources() -> Mapping[Path, ast.Module]:
    """Files of the package, from its root, without its tests, benchmarks and examples."""
    files = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    shown = sorted(file.relative_to(ROOT) for file in files if file.name != "setup.py")
    return {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in shown}


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function and method, with its file."""
    for file, tree in sources().items():
        yield from ((file, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def with_recipe() -> list[str]:
    """Functions with a parameter `recipe` outside the places that hold recipes."""
    return [
        f"{file}:{function.name}"
        for file, function in functions()
        if not HOLDS_RECIPES.search(file.as_posix()) and any(each.arg == "recipe" for each in _parameters(function))
    ]


def untyped_prepared() -> list[str]:
    """Functions with a parameter `prepared` of no type."""
    return [
        f"{file}:{function.name}"
        for file, function in functions()
        if any(each.arg == "prepared" and each.annotation is None for each in _parameters(function))
    ]


def by_string_key() -> Counter[str]:
    """Accesses `metrics["..."]` and `info.get("...")`: "metrics" and "info" -> how often."""
    counts: Counter[str] = Counter()
    for tree in sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and _is_text(node.slice) and _last_name(node.value) == "metrics":
                counts["metrics"] += 1
            if isinstance(node, ast.Call) and node.args and _is_text(node.args[0]):
                called = node.func
                if isinstance(called, ast.Attribute) and called.attr == "get" and _last_name(called.value) == "info":
                    counts["info"] += 1
    return counts


def places_of(option: str) -> Counter[Path]:
    """Lines of code, without docstrings and comments, that name an option: of each file how many."""
    named = re.compile(rf"\b{option}\b|--{option.replace('_', '-')}\b")
    counts: Counter[Path] = Counter()
    for file, tree in sources().items():
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        if found := sum(bool(named.search(lines[number - 1])) for number in lines_of_code(file, tree)):
            counts[file] = found
    return counts


def lines_of_code(file: Path, tree: ast.Module) -> list[int]:
    """Numbers of the lines, from 1, that are no docstring, blank, import or comment."""
    text = (ROOT / file).read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Expr) and _is_text(node.value)):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return sorted(lines)


def names_of_rooms() -> list[Named]:
    """What adapters and domains import from `core`."""
    found = set()
    for file, tree in sources().items():
        if file.parts[0] in ("adapters", "domains"):
            package = ("vladapt", *file.parent.parts)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level:
                    base = package[: len(package) + 1 - node.level] + tuple((node.module or "").split("."))
                    if base[:2] == ("vladapt", "core"):
                        user = ".".join(file.with_suffix("").parts[:2])
                        found.update(Named(".".join(base[2:]), each.name, user) for each in node.names)
    return sorted(found)


def classes_above_adapters() -> dict[str, int]:
    """How many classes of ours stand above each method, `Adapter` among them."""
    from vladapt.core.registry import adapter_class, catalogue

    bases = {name: adapter_class(name).__mro__[1:] for name in catalogue.adapters()}
    return {name: sum(base.__module__.split(".")[0] == "vladapt" for base in mro) for name, mro in bases.items()}


def rooms() -> list[str]:
    """Folders of `core`."""
    return sorted(folder.name for folder in (ROOT / "core").iterdir() if (folder / "__init__.py").is_file())


@cache
def graph() -> grimp.ImportGraph:
    """Who imports whom, lazy and type imports counted."""
    return grimp.build_graph("vladapt", cache_dir=None)


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names of which each can be reached from each other, the largest first."""
    pairs = sorted({edge for edge in edges if edge[0] != edge[1]})
    names = sorted({name for pair in pairs for name in pair})
    place = {name: number for number, name in enumerate(names)}
    rows, columns = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    matrix = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(names), len(names)))
    groups = defaultdict(list)
    for name, group in zip(names, connected_components(matrix, connection="strong")[1]):
        groups[group].append(name)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)


def circles_of_rooms() -> list[list[str]]:
    """Circles of the folders of `core`."""
    return circles((_room(a), _room(b)) for a, b in _edges() if _room(a) and _room(b))


def circles_of_files() -> list[list[str]]:
    """Circles of files of the package."""
    return circles(_edges())


def flags(*arguments: str) -> list[str]:
    """Options that `vladapt ARGUMENTS --help` shows."""
    command = [sys.executable, "-m", "vladapt", *arguments, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "120"}).stdout
    return sorted(set(re.findall(r"^\W*(--[a-z][a-z0-9-]*)", shown, re.MULTILINE)))


def table(*, entered: bool) -> Iterator[Row]:
    """The table, in the order in which it was asked for."""
    if entered:
        from entered_files import entered as files_of

        yield Row("files that a fit enters", f"{len(files_of(ENTERED))}", "106", "75")
    shown = f"{len(flags('fit'))}; {len(flags('fit', '--domain', 'medical'))}"
    yield Row("flags of fit without a domain; with one", shown, "115; 115", "32; and its own")
    yield Row("functions with a parameter `recipe` outside its places", f"{len(with_recipe())}", "111", "0")
    options = places_of("vocabulary_steps")
    places = f"{options.total()} in {len(options)} files"
    yield Row("lines that name --vocabulary-steps", places, "16 in 7 files", "its field, its use")
    keys = by_string_key()
    shown = f"{keys['metrics']}; {keys['info']}"
    yield Row('accesses metrics["..."]; info.get("...")', shown, "113; 170", "at the edge")
    yield Row("functions with an untyped `prepared`", f"{len(untyped_prepared())}", "47", "0")
    yield Row("rooms in circles", _sizes(circles_of_rooms()), "20 in 1, the largest 20", "none")
    yield Row("files in circles", _sizes(circles_of_files()), "34 in 9, the largest 13", "none")
    total = sum(len(lines_of_code(file, tree)) for file, tree in sources().items())
    yield Row("lines of code", f"{total:,}", "73,986", "fewer")
    used = names_of_rooms()
    names, modules = ({(each.room, each.name) for each in used}, {each.room for each in used})
    shown = f"{len(names)} in {len(modules)} modules"
    yield Row("names of core that adapters and domains import", shown, "449 in 147 modules", "260 in 20")
    above = classes_above_adapters().values()
    yield Row("own classes above an adapter: median; most", f"{median(above):g}; {max(above)}", "4; 10", "3 at most")


def _edges() -> Iterator[tuple[str, str]]:
    for importer in graph().modules:
        yield from ((importer, imported) for imported in graph().find_modules_directly_imported_by(importer))


def _room(module: str) -> str:
    """The room of `core` that a module lies in; "" for what lies in none."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[1] == "core" and parts[2] in _rooms() else ""


@cache
def _rooms() -> frozenset[str]:
    return frozenset(rooms())


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _last_name(node: ast.expr) -> str:
    """ "metrics" of `metrics` and of `run.metrics`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _sizes(groups: list[list[str]]) -> str:
    inside = sum(map(len, groups))
    return f"{inside} in {len(groups)}, the largest {len(groups[0])}" if groups else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of the package one has to carry.")
    parser.add_argument("--entered", action="store_true", help="run a fit and count the files that it enters")
    rows = [Row("what", "now", "9b9a365d", "goal"), *table(entered=parser.parse_args().entered)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    print_help(__doc__)
    main()

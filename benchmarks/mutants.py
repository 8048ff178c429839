"""How many seeded mutants of some files their tests kill: whether tests that were cut hold as much as before.

    python benchmarks/mutants.py --files core/data/splits.py --tests tests/core/data/test_splits.py --count 30
    python benchmarks/mutants.py --files core/curation --tests tests/core/curation --count 40 --seed 1 --kinds raise if

A mutant is a file with one change: a comparison, `+`, `and` or a number replaced, a `not` dropped, a condition always
true or false, a refusal left out, None returned. The same files, seed and kinds give the same mutants, whatever the
tests: run it before and after the tests change. What only processes run that tests start counts as called by none. The
exit code is 1 if the tests fail without any mutant.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from defects import PRELOADED, ROOT, Defect, FirstFailure, copied, first_failure, written_into

COMPARED = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
COMPUTED = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//"}
KINDS = ("compare", "compute", "logic", "not", "constant", "if", "raise", "return")


@dataclass(frozen=True)
class Mutant:
    """A file with one change."""

    file: str
    line: int
    function: int
    """The first line of the function around it, 0 where there is none and all tests may tell."""
    kind: str
    change: str
    """What stands there, and what instead."""
    source: str
    """Of the whole file, as it is."""
    mutated: str


def mutants_of(file: str, source: str, kinds: Iterable[str] = KINDS) -> Iterator[Mutant]:
    """All mutants of a file, in the order of its lines; annotations, docstrings and messages stay."""
    text, asked, tree = source.encode(), frozenset(kinds), ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in sorted(_code(tree), key=lambda node: (node.lineno, node.col_offset)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        old = text[first:last].decode()
        for kind, new in _changes(node, source):
            if kind in asked:
                change = f"{' '.join(old.split())} -> {' '.join(new.split())}"
                mutated = (text[:first] + new.encode() + text[last:]).decode()
                yield Mutant(file, node.lineno, _around(node, functions), kind, change, source, mutated)


def _around(node: ast.expr | ast.stmt, functions: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> int:
    """The first line, as code objects have it, of the innermost function in whose body a node is."""
    bodies = [each for each in functions if each.body[0].lineno <= node.lineno <= each.end_lineno]
    if not bodies:
        return 0
    inner = max(bodies, key=lambda each: each.lineno)
    return min(each.lineno for each in (inner, *inner.decorator_list))


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Expressions and statements that run, without those that only tell types and those inside of texts."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
        return
    if isinstance(node, (ast.expr, ast.stmt)):
        yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _code(child)


def _changes(node: ast.AST, source: str) -> Iterator[tuple[str, str]]:
    """(Kind, what stands in the node's place)."""

    def part(child: ast.AST) -> str:
        return f"({ast.get_source_segment(source, child)})"

    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield "compare", f"({part(left)} {COMPARED[type(op)]} {part(right)})"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in COMPUTED and not _is_text(left, right):
            yield "compute", f"({part(left)} {COMPUTED[type(op)]} {part(right)})"
        case ast.BoolOp(op=op, values=values):
            word = " or " if isinstance(op, ast.And) else " and "
            yield "logic", f"({word.join(map(part, values))})"
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "not", part(operand)
        case ast.Constant(value=bool(value)):
            yield "constant", str(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", f"{value + 1}"
        case ast.Raise():
            yield "raise", "pass"
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield "return", "return None"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "if", part(body)
            yield "if", part(orelse)
        case ast.If(test=test):
            for truth in ("True", "False"):
                yield "if", _with_condition(node, test, truth, source)


def _with_condition(node: ast.If, test: ast.expr, truth: str, source: str) -> str:
    """The statement with another condition, its lines as they are."""
    whole, condition = ast.get_source_segment(source, node), ast.get_source_segment(source, test)
    head, found, tail = whole.partition(condition)
    return f"{head}{truth}{tail}" if found else whole


def _is_text(*nodes: ast.expr) -> bool:
    return any(isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str) for node in nodes)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def drawn_mutants(files: Iterable[Path], count: int, seed: int, kinds: Iterable[str] = KINDS) -> list[Mutant]:
    """Some mutants of all files, in the order of files and lines; each of them can be parsed."""
    everything = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        everything += mutants_of(file.relative_to(ROOT).as_posix(), source, kinds)
    draw = random.Random(seed)
    draw.shuffle(everything)
    chosen = []
    for mutant in everything:
        if len(chosen) < count and _parses(mutant.mutated):
            chosen.append(mutant)
    return sorted(chosen, key=lambda mutant: (mutant.file, mutant.line, mutant.change))


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


class Callers(FirstFailure):
    """Which tests call which functions of the copy."""

    def __init__(self):
        super().__init__()
        self.test, self.called = "", defaultdict(set)
        self.place = f"{Path.cwd()}{os.sep}"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self.test = item.nodeid.partition("[")[0]
        sys.settrace(self._entered)
        threading.settrace(self._entered)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """What others of the file may use, all of them call."""
        test = self.test
        if fixturedef.scope != "function":
            self.test = test.partition("::")[0]
        try:
            return (yield)
        finally:
            self.test = test

    def _entered(self, frame, event, arg) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self.place):
            self.called[code.co_filename.removeprefix(self.place), code.co_firstlineno].add(self.test)

    def outcome(self, ran: bool):
        return (*super().outcome(ran), dict(self.called))


def tests_of(mutant: Mutant, callers: dict[tuple[str, int], set[str]], tests: Iterable[str]) -> tuple[str, ...]:
    """Those that call the function of a mutant; all tests where it is in none."""
    if not mutant.function:
        return tuple(tests)
    names = callers.get((mutant.file, mutant.function), set())
    return tuple(sorted(name for name in names if name == (file := name.partition("::")[0]) or file not in names))


def python_files(names: Iterable[str]) -> list[Path]:
    """Those of files and folders below the repository."""
    files: set[Path] = set()
    for name in names:
        path = ROOT / name
        files |= set(path.rglob("*.py")) if path.is_dir() else {path}
    return sorted(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--files", nargs="+", required=True, help="files and folders of the package that are mutated")
    parser.add_argument(
        "--tests", nargs="+", required=True, help="files and folders of tests, or tests, the fast ones first"
    )
    parser.add_argument("--count", type=int, default=30, help="mutants drawn (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of changes (default all)")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds for the tests of one mutant; longer counts as killed"
    )
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    mutants = drawn_mutants(python_files(asked.files), asked.count, asked.seed, asked.kinds)
    killed: Counter[bool] = Counter()
    everywhere = ("-m", "not thorough", *asked.tests)
    with copied() as package:
        failed, passed, *callers = first_failure(package, everywhere, os.devnull, 30 * asked.limit, Callers)
        if failed or not passed:
            sys.exit(f"without a mutant: {failed or 'no test passed'}")
        for mutant in mutants:
            change = Defect(mutant.kind, mutant.file, mutant.source, mutant.mutated, ())
            failed = ""
            if tests := tests_of(mutant, *callers, everywhere):
                with written_into(package, change):
                    failed, _ = first_failure(package, tests, os.devnull, asked.limit)
            killed[bool(failed)] += 1
            outcome = f"killed by {failed}" if failed else "ALIVE" if tests else "ALIVE, called by no test"
            print(f"{mutant.file}:{mutant.line} {mutant.change:.120}: {outcome}", flush=True)
    print(f"{killed[True]} of {len(mutants)} mutants killed by {passed} tests")


if __name__ == "__main__":
    main()

"""Which defects put in by hand the tests find: each is written into a copy of the package, whose tests are then run.

    python benchmarks/defects.py                      # all of benchmarks/defects.json, without the shared folder
    python benchmarks/defects.py house --data FOLDER  # one of its lists, with real data and reference outputs beside it
    python benchmarks/defects.py gda tda              # some defects

A defect is a file, a text that occurs in it exactly once, what stands there instead, and the tests that ought to fail.
One whose text is no longer there once is reported as such, and is to be written anew. The tests must pass as they are:
`--sound` runs them on a copy without any defect. The exit code is 1 if a defect was missed or does not apply.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = Path(__file__).with_name("defects.json")
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "*.egg-info")
PRELOADED = (
    *(
        "pytest",
        "hypothesis",
        "numpy",
        "scipy.stats",
        "PIL.Image",
        "torch",
        "torchvision.transforms",
        "safetensors.torch",
    ),
    *("typer", "open_clip", "transformers", "mmengine.runner", "mmdet", "sklearn.linear_model"),
)
"""Imported once, those of them that are installed, before each run of tests is forked."""


@dataclass(frozen=True)
class Defect:
    """A change by hand, and the files of tests that are asked."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


class FirstFailure:
    """What pytest tells of a run: the first test that failed, and how many passed."""

    def __init__(self):
        self.failed, self.passed = "", 0

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
        self.passed += report.when == "call" and report.passed

    def pytest_collectreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (cannot be imported)"

    def outcome(self, ran: bool) -> tuple[str, int]:
        """(The first test that failed, "" if none did; how many passed before it)."""
        return self.failed, self.passed if ran else 0


def read_lists() -> dict[str, list[Defect]]:
    """Name of a list -> its defects."""
    told = json.loads(LISTS.read_text(encoding="utf-8"))
    return {name: [Defect(**{**each, "tests": tuple(each["tests"])}) for each in found] for name, found in told.items()}


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the package, whose folder has the package's name."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(ROOT, Path(folder) / "vladapt", ignore=LEFT_OUT, symlinks=True))


@contextmanager
def written_into(package: Path, defect: Defect) -> Iterator[bool]:
    """The defect in the copy, for the time being; whether its text is there exactly once."""
    path = package / defect.file
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    applies = before.count(defect.old) == 1
    if applies:
        path.write_text(before.replace(defect.old, defect.new), encoding="utf-8")
    try:
        yield applies
    finally:
        if applies:
            path.write_text(before, encoding="utf-8")


def first_failure(
    package: Path, tests: tuple[str, ...], data: str, limit: float, watch: type[FirstFailure] = FirstFailure
):
    """What a watch tells of tests that run in a process of their own: the first that fails, "" if none does, and how
    many passed before it.
    """
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tested, args=(theirs, package, tests, data, watch))
    process.start()
    theirs.close()
    try:
        outcome = mine.recv() if mine.poll(limit) else (f"none ended within {limit:.0f} s", 0)
    except EOFError:
        outcome = ("the process of the tests died", 0)
    process.kill()
    process.join()
    return outcome


def _tested(pipe, package: Path, tests: tuple[str, ...], data: str, watch: type[FirstFailure]) -> None:
    import pytest

    os.chdir(package)
    os.environ.update(VLADAPT_DATA=data, PYTHONDONTWRITEBYTECODE="1", PYTHONPATH=str(package.parent))
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(package.parent))
    told = watch()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[told])
    ran = code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    pipe.send(told.outcome(ran))


def judged(package: Path, defect: Defect, asked: argparse.Namespace) -> tuple[bool, str]:
    """(Whether all is well, what came of it)."""
    if asked.sound:
        failed, passed = first_failure(package, defect.tests, asked.data, asked.limit)
        return not failed and passed > 0, f"fails as it is: {failed}" if failed else f"{passed} tests pass"
    with written_into(package, defect) as applies:
        if not applies:
            return False, "does not apply"
        failed, passed = first_failure(package, defect.tests, asked.data, asked.limit)
        return bool(failed), f"found by {failed}" if failed else f"MISSED by {passed} tests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="of lists or of defects; by default all")
    parser.add_argument("--data", default=os.devnull, help="folder of real data, as in VLADAPT_DATA; by default none")
    parser.add_argument("--limit", type=float, default=900, help="seconds that the tests of one defect may take")
    parser.add_argument("--sound", action="store_true", help="run the tests without the defects: all must pass")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    pairs = [(name, each) for name, found in read_lists().items() for each in found]
    defects = [each for name, each in pairs if not asked.names or {name, each.name} & set(asked.names)]
    well = 0
    with copied() as package:
        for defect in defects:
            fine, said = judged(package, defect, asked)
            well += fine
            print(f"{defect.name:38} {defect.file:46} {said}", flush=True)
    print(f"{well} of {len(defects)} {'sound' if asked.sound else 'found'}")
    sys.exit(well < len(defects))


if __name__ == "__main__":
    main()

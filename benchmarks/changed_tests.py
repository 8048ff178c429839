"""Test files that stand for what changed since a commit, the nearest first: `make check` runs them.

    python benchmarks/changed_tests.py        # since the commit before this one, with what is not committed yet
    python benchmarks/changed_tests.py main   # since this branch left main

Nearest are files of tests that changed themselves, then those that have the name of a changed module, then those that
import it; where a module has neither, its folder of tests stands for it. Of many files the first are taken, so that
they take two minutes; stderr says how many were left to the whole suite.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
MOST = 40
ITSELF, OF_ITS_NAME, IMPORTS_IT, OF_ITS_FOLDER = range(4)
"""How near a file of tests is to a file that changed."""
PAGES = "tests/docs"
PACKAGING = "tests/packaging"


def changed_files(base: str, root: Path = ROOT) -> list[str]:
    """Paths that differ from where this branch left a commit, those that git does not know yet among them.

    Raises:
        SystemExit: git knows no such commit.
    """

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"changed_tests: since {base!r}: {done.stderr.strip().splitlines()[0]}")
        return done.stdout.strip()

    since = git("merge-base", base, "HEAD")
    tracked = git("diff", "--name-only", since).splitlines()
    return sorted({*tracked, *git("ls-files", "--others", "--exclude-standard").splitlines()})


def nearest_tests(changed: Iterable[str], tests: Mapping[str, str]) -> list[str]:
    """Files of tests that stand for changed files, the nearest first.

    Args:
        changed: paths below the repository.
        tests: path -> text, of all files of tests.
    """
    distance: dict[str, int] = {}
    for path in changed:
        for name, near in _near(PurePosixPath(path), tests).items():
            distance[name] = min(near, distance.get(name, near))
    return sorted(distance, key=lambda name: (distance[name], name))


def _near(path: PurePosixPath, tests: Mapping[str, str]) -> dict[str, int]:
    """File of tests -> how near it is to a changed file."""
    if str(path) in tests:
        return {str(path): ITSELF}
    top = path.parts[0]
    if top == "tests":
        return dict.fromkeys(_of_folder(path.parent, tests), OF_ITS_FOLDER)
    if path.suffix != ".py":
        inside = top in ("core", "adapters", "domains", "benchmarks")
        page = top == "docs" or path.suffix == ".md"
        folder = PurePosixPath("tests") / path.parent if inside else PurePosixPath(PAGES if page else PACKAGING)
        return dict.fromkeys(_of_folder(folder, tests), OF_ITS_FOLDER)
    folder = PurePosixPath("tests") / path.parent
    near = {name: OF_ITS_NAME for name in [str(folder / f"test_{path.stem}.py")] if name in tests}
    imported = _imports(path)
    near |= {name: IMPORTS_IT for name, text in tests.items() if name not in near and imported.search(text)}
    return near or dict.fromkeys(_of_folder(folder, tests), OF_ITS_FOLDER)


def _imports(path: PurePosixPath) -> re.Pattern[str]:
    """What a file writes that imports a module."""
    package = path.parts[0] != "benchmarks"
    place, name = path.with_suffix("").parts[:-1], path.stem
    if name == "__init__" and place:
        *place, name = place
    dotted = ".".join(("vladapt", *place) if package else place[1:])
    whole = re.escape(f"{dotted}.{name}".lstrip("."))
    listed = rf"^from {re.escape(dotted)} import .*\b{name}\b" if dotted else "(?!)"
    return re.compile(rf"^\s*(?:from|import) {whole}\s|{listed}", re.MULTILINE)


def _of_folder(folder: PurePosixPath, tests: Mapping[str, str]) -> list[str]:
    """Tests in the folder, or in the nearest above it that has some."""
    for place in (folder, *folder.parents):
        if inside := [name for name in tests if PurePosixPath(name).parent == place]:
            return inside
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", default="HEAD~1", help="a commit or a branch")
    base = parser.parse_args().base
    tests = {file.relative_to(ROOT).as_posix(): file.read_text() for file in sorted(ROOT.glob("tests/**/test_*.py"))}
    nearest = nearest_tests(changed_files(base), tests)
    print(*nearest[:MOST], sep="\n")
    if len(nearest) > MOST:
        print(f"the {MOST} nearest of {len(nearest)} files of tests; `make test` runs all", file=sys.stderr)


if __name__ == "__main__":
    main()

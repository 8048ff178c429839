"""What each extra takes on disk, of the packages that are installed here.

    python benchmarks/install_sizes.py

For each extra: its packages with all that they need, from the metadata of what is installed, and the size of their
files as they are recorded there; a file that two packages hold, as all OpenCV wheels hold one cv2, counts once.
Extras of which something is not installed are named below the table. Byte code, which pip adds, is not counted.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from usage import print_help

PACKAGE = "vladapt"
MEBIBYTE = 2**20


def main() -> None:
    base = needed(PACKAGE)
    print("| what | packages | MiB | beside vladapt alone |\n| --- | ---: | ---: | ---: |")
    print(_row("`torch`, with what it needs", needed("torch"), None))
    print(_row("vladapt alone", base, None))
    missing = {}
    for extra in sorted(distribution(PACKAGE).metadata.get_all("Provides-Extra")):
        names = base | needed(PACKAGE, extra)
        if absent := sorted(name for name in names if _installed(name) is None):
            missing[extra] = absent
        else:
            print(_row(f"`{extra}`", names, base))
    for extra, absent in missing.items():
        print(f"{extra}: not installed here: {', '.join(absent)}")


def needed(name: str, extra: str = "") -> set[str]:
    """A package, and all that it needs in this environment, by their canonical names."""
    names: set[str] = set()
    waiting, seen = [(canonicalize_name(name), extra)], set()
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        names.add(each[0])
        package = _installed(each[0])
        for line in package.requires or () if package else ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": each[1]}):
                dependency = canonicalize_name(requirement.name)
                waiting += [(dependency, further) for further in ("", *requirement.extras)]
    return names


def mebibytes(names: set[str]) -> float:
    """Of the files of packages together; those of an editable installation lie elsewhere and count nothing."""
    files = frozenset().union(*map(_files, names))
    return sum(size for _, size in files) / MEBIBYTE


@cache
def _files(name: str) -> frozenset[tuple[str, int]]:
    """(Path, bytes) of each file that was installed."""
    package = _installed(name)
    paths = [file.locate() for file in (package.files or () if package else ()) if file.suffix != ".pyc"]
    return frozenset((os.path.normpath(path), path.stat().st_size) for path in paths if path.is_file())


@cache
def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _row(what: str, names: set[str], base: set[str] | None) -> str:
    size = mebibytes(names)
    beside = "" if base is None else f"{size - mebibytes(base):,.0f}"
    return f"| {what} | {len(names)} | {size:,.0f} | {beside} |"


if __name__ == "__main__":
    print_help(__doc__)
    main()

"""How many of our files a command enters: those in which a function runs; imports alone do not count.

    python benchmarks/entered_files.py fit --domain medical --adapter tip-adapter    # prints the files, and how many

A reader who follows one call opens that many files: a test holds how many those of `fit --adapter tip-adapter` are.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from usage import print_help

import vladapt
from vladapt.cli import main as vladapt_main

ROOT = Path(vladapt.__file__).resolve().parent


def entered(arguments: Sequence[str]) -> list[Path]:
    """Files of the package in which a function runs while the command does."""
    seen: set[str] = set()

    def note(frame, event: str, argument) -> None:
        code = frame.f_code
        if event != "call" or code.co_filename in seen or not _is_ours(code.co_filename):
            return
        if code.co_flags & inspect.CO_OPTIMIZED and not _while_importing(frame):
            seen.add(code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        vladapt_main(list(arguments))
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(Path(name).relative_to(ROOT) for name in seen)


@cache
def _is_ours(file: str) -> bool:
    """Whether a file is of the package, and of no environment below it."""
    path = Path(file)
    return path.suffix == ".py" and path.is_relative_to(ROOT) and "site-packages" not in path.parts


def _while_importing(frame) -> bool:
    """Whether a module is being imported: its body runs, or what gives names of a package to those that import them."""
    if frame.f_code.co_qualname == "lazy_exports.<locals>.__getattr__":
        return True
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False


def main() -> None:
    files = entered(sys.argv[1:])
    print("\n".join(map(str, files)))
    folders = Counter("/".join(file.parts[:2]) for file in files)
    print(f"\n{len(files)} files: " + ", ".join(f"{folder} {count}" for folder, count in folders.most_common()))


if __name__ == "__main__":
    print_help(__doc__, words=1)
    main()

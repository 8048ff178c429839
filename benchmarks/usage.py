"""`--help` of benchmarks without options of their own: the description at the head of the file."""

from __future__ import annotations

import sys


def print_help(description: str, words: int = 0) -> None:
    """End the process with the description if it was started with `--help`, or with too few words.

    Args:
        description: of the benchmark, its docstring.
        words: how many the command line must have.

    Raises:
        SystemExit: 0 after `--help`; 2 where words are missing, the description on stderr.
    """
    if sys.argv[1:2] in (["-h"], ["--help"]):
        print(description.strip())
        raise SystemExit(0)
    if len(sys.argv) <= words:
        print(description.strip(), file=sys.stderr)
        raise SystemExit(2)

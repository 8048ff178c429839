"""The tables of docs/measurements/trust.md, measured on public and generated data; each has a name.

    python benchmarks/trust.py                  # prints all tables
    python benchmarks/trust.py --page           # writes them into docs/measurements/trust.md as well
    python benchmarks/trust.py auroc unequal    # prints some; --page writes these

The public data are in the folder that VLADAPT_DATA names; sets missing there are skipped, and a line says so. A table
for which nothing could be measured is left as it is. One thread; a quarter of an hour on an otherwise idle core, most
of it for `auroc` and `unequal`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from adapter_page import between
from trust_checks import (
    calibration,
    calls,
    coverage,
    intervals,
    operating_points,
    patients,
    present,
    ranking,
    unequal,
    unlike,
)

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "trust.md"
SECTIONS = {
    "auroc": ranking.lines,
    "drawn-auroc": ranking.drawn_lines,
    "unequal": unequal.lines,
    "intervals": intervals.lines,
    "coverage": coverage.lines,
    "patients": patients.lines,
    "open-patients": patients.open_lines,
    "operating-points": operating_points.lines,
    "calibration": calibration.lines,
    "present": present.lines,
    "unlike": unlike.lines,
    "calls": calls.lines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"tables, of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public data")
    parser.add_argument("--page", action="store_true", help="write the tables into docs/measurements/trust.md")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SECTIONS]:
        parser.error(f"there is no table {unknown[0]}; there are {', '.join(SECTIONS)}")
    for name in given.names or SECTIONS:
        started = time.process_time()
        table = printed(name, given.data)
        print(f"{name}: {time.process_time() - started:.0f} s of CPU time", file=sys.stderr)
        if given.page and table:
            PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), name, table), encoding="utf-8")


def printed(name: str, data: Path) -> str:
    """A table, whose lines are printed as they are measured."""
    lines = []
    for line in SECTIONS[name](data):
        print(line, flush=True)
        lines.append(line)
    return "\n".join(lines)


def with_table(page: str, name: str, table: str) -> str:
    """The page with one table written anew."""
    begin, end = marks(name)
    return between(page, begin, end, table)


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a table."""
    return f"<!-- {name}: written by benchmarks/trust.py --page -->", f"<!-- end of {name} -->"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""Try the smallest packaged config of each folder of mmdet and mmsegmentation: a step of training, a prediction.

    python benchmarks/stock_configs.py                              # all 168 folders; takes more than half an hour
    python benchmarks/stock_configs.py mmdet/dino mmseg/fcn --out mine.jsonl
    python benchmarks/stock_configs.py --markdown                   # docs/measurements/open-vocab-stock-configs.md

Each is built with random weights, and nothing is downloaded. It runs on small drawn images in a process of its own,
and works, fails, or is too large for the limits. Smallest is what its name tells: the size of the backbone, and of
equals the shortest name.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stock_checks.choice import chosen_folders
from stock_checks.limited import Limits
from stock_checks.outcomes import Outcome, as_line, page, read_outcomes, summary, told

from vladapt.core.errors import ConfigError, VladaptError


def outcomes_of(folders: list[str], limits: Limits, out: Path | None) -> list[Outcome]:
    """What became of each folder.

    Args:
        folders: of `choice.folders()`.
        out: a file of outcomes: folders that are in it are not tried again, others are added as they are tried.
    """
    from stock_checks.trying import tried

    outcomes, width = read_outcomes(out) if out is not None and out.exists() else {}, max(map(len, folders))
    for outcome in tried([folder for folder in folders if folder not in outcomes], limits):
        outcomes[outcome.folder] = outcome
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(as_line(outcome) + "\n")
        print(f"{outcome.folder:<{width}}  {outcome.config:<{width}}  {told(outcome)}", file=sys.stderr)
    return [outcomes[folder] for folder in folders]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help="such as mmseg, mmdet/dino or fcn; by default all")
    parser.add_argument("--out", type=Path, help="file for one line of JSON per folder, written as it is tried")
    parser.add_argument("--resume", action="store_true", help="continue the file of --out: try only what is not in it")
    parser.add_argument("--memory", type=float, default=10.0, help="memory in GiB that each config may take")
    parser.add_argument("--seconds", type=int, default=120, help="seconds of CPU time that each config may take")
    parser.add_argument("--markdown", action="store_true", help="print the page of the documentation")
    given = parser.parse_args(arguments)
    try:
        if given.resume and given.out is None:
            raise ConfigError("--resume: continues the file of --out; give --out too")
        if given.out is not None and given.out.exists() and not given.resume:
            raise ConfigError(f"--out {given.out}: already exists; add --resume, or give another")
        listed = outcomes_of(chosen_folders(given.folders), Limits(given.memory, given.seconds), given.out)
    except VladaptError as error:
        parser.error(str(error))
    print(page(listed) if given.markdown else summary(listed))


if __name__ == "__main__":
    main()

"""What became of each folder: a line of JSON, and a row of a table."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vladapt.core.errors import DataError, shortened

from .limited import Ending

WORKS, FAILS, TOO_LARGE, NOTHING = "works", "fails", "too large", "no model"
LACKS = (
    r"No module named '(\w+)",
    r"mim install (\w+)",
    r"(\w+) is not installed",
    r"([\w-]+) needs to be installed",
    r"custom modules from {'imports': \['(\w+)",
    r"(mmpretrain)\.\w+ is not in",
)
"""How packages are said to be missing; the group is the package."""
MOST = 100
"""Characters of a reason."""

PAGE = """# Packaged configs of mmdet and mmsegmentation

Made by `python benchmarks/stock_configs.py --markdown`. From each folder of configs in mmdet and mmsegmentation, the
smallest config is built, trained for one step with its own optimiser, and makes one prediction. The smallest is
chosen by name: the smallest backbone, then the shortest name; configs for pretraining come last. These parts are
changed: weights (random, nothing is downloaded), images (two drawn ones of 128 x 128 pixels; 256 to 512 where an
SSD's anchors, the queries of a two-stage DETR or a head need them; windows, padding and position tables likewise),
regions per image (64 sampled, 200 before suppression, 100 kept), precision (32 bits), synchronised norms (plain ones,
in one process) and BERT (a small random one). Data sets and their pipelines are not tried. Each config runs in its
own process, with at most 10 GiB of memory and 120 s of CPU time; one that needs more is too large. The seconds were
measured on a busy machine.

**{summary}.**

| folder | config | parameters, M | CPU, s | memory, GiB | outcome |
| --- | --- | ---: | ---: | ---: | --- |
{rows}"""


@dataclass(frozen=True)
class Outcome:
    """Of one folder.

    Args:
        folder: "mmdet/atss".
        config: the file that was tried, or "".
        outcome: "works", "fails", "too large" or "no model".
        reason: why, in a few words, or a remark.
        parameters: of the model; 0 where it was not built.
        cpu_s: seconds of CPU time.
        memory_gib: the most memory that was resident.
    """

    folder: str
    config: str
    outcome: str
    reason: str = ""
    parameters: int = 0
    cpu_s: float = 0.0
    memory_gib: float = 0.0


def outcome_of(folder: str, config: str, ending: Ending) -> Outcome:
    used = {"cpu_s": ending.cpu_s, "memory_gib": ending.memory_gib}
    if ending.over:
        return Outcome(folder, config, TOO_LARGE, f"over {ending.over}", **used)
    if ending.error:
        return Outcome(folder, config, FAILS, in_few_words(ending.error), **used)
    parameters, remark = ending.value
    return Outcome(folder, config, WORKS, remark, parameters, **used)


def in_few_words(error: str) -> str:
    """The reason of an error "Type: text": a package that is missing, or its first words."""
    for pattern in LACKS:
        if lacking := re.search(pattern, error):
            return f"needs the package {lacking[1]}: pip install {lacking[1]}"
    return shortened(re.sub(r"[^\s'\"]*/\.mim/", "", error), MOST)


def read_outcomes(file: Path) -> dict[str, Outcome]:
    """Folder -> outcome of a file of JSON lines; of a folder that is there twice the last.

    Raises:
        DataError: a line is none of ours.
    """
    outcomes = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            outcome = Outcome(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: line {number} is no outcome of a config; give another --out") from error
        outcomes[outcome.folder] = outcome
    return outcomes


def as_line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome))


def told(outcome: Outcome) -> str:
    """ "works", or "fails: needs the package mmpretrain"."""
    return f"{outcome.outcome}: {outcome.reason}" if outcome.reason else outcome.outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """ "159 of 167 folders work (95.2 %); 1 without a model"."""
    counts = Counter(outcome.outcome for outcome in outcomes)
    fit = counts[WORKS] + counts[FAILS]
    share = f" ({100 * counts[WORKS] / fit:.1f} %)" if fit else ""
    others = [(counts[TOO_LARGE], "too large"), (counts[NOTHING], "without a model")]
    beside = [f"{count} {words}" for count, words in others if count]
    return "; ".join([f"{counts[WORKS]} of {fit} folders work{share}", *beside])


def page(outcomes: Sequence[Outcome]) -> str:
    """The page of the documentation, in Markdown."""
    return PAGE.format(summary=summary(outcomes), rows="\n".join(map(_row, outcomes)))


def _row(outcome: Outcome) -> str:
    size = f"{outcome.parameters / 1e6:.1f}" if outcome.parameters else ""
    time = f"{outcome.cpu_s:.0f}" if outcome.config else ""
    memory = f"{outcome.memory_gib:.1f}" if outcome.memory_gib else ""
    cells = [outcome.folder, outcome.config.removesuffix(".py"), size, time, memory, told(outcome).replace("|", "\\|")]
    return f"| {' | '.join(cells)} |"

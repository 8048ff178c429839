"""How well sentences of radiology reports are read: 120 of ours, 60 of which no term was chosen by.

    python benchmarks/report_findings.py

Prints how many of each half are read wrong, and what was read in each of these. A sentence is right if its findings and
their states are those that were written down for it, neither more nor fewer. `tests/domains/medical/reports/
sentences.json` holds them; the half that is set apart was written before any term was chosen, by the same author.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from usage import print_help

from vladapt.domains.medical.reports.extraction import FindingExtractor

SENTENCES = Path(__file__).parents[1] / "tests" / "domains" / "medical" / "reports" / "sentences.json"
HALVES = {"tuned": "sentences by which terms were chosen", "held_out": "sentences set apart"}


class Error(NamedTuple):
    """A sentence, finding -> state as written down, and what was read instead."""

    sentence: str
    written: dict[str, str]
    read: list[tuple[str, str]]


def sentences() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """Name of a half -> its sentences, each with the state of each of its findings."""
    return json.loads(SENTENCES.read_text(encoding="utf-8"))


def errors(half: str) -> list[Error]:
    """What is read wrong."""
    listed = sentences()[half]
    found = FindingExtractor().findings((str(number), text) for number, (text, _) in enumerate(listed))
    read = [sorted({(each.finding, each.state) for each in some}) for some in found]
    return [Error(text, right, got) for (text, right), got in zip(listed, read) if got != sorted(right.items())]


def main() -> None:
    for half, words in HALVES.items():
        wrong = errors(half)
        print(f"{len(wrong)} of {len(sentences()[half])} {words} are read wrong")
        for error in wrong:
            print(f"  {error.sentence}")
            print(f"    written: {_told(error.written.items())}; read: {_told(error.read)}")


def _told(findings) -> str:
    return ", ".join(f"{finding} {state}" for finding, state in sorted(findings)) or "nothing"


if __name__ == "__main__":
    print_help(__doc__)
    main()

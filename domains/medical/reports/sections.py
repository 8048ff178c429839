"""Sections of a radiology report, by the headings that hospitals and MIMIC-CXR use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

FINDINGS, IMPRESSION, BOTH, UNNAMED = "findings", "impression", "findings and impression", ""
BEFORE = ("examination", "indication", "technique", "comparison")
"""What stands before the findings, one paragraph each: what follows a blank line there belongs to no heading."""
OF_THE_IMAGE = (FINDINGS, IMPRESSION, BOTH, UNNAMED, "final report", "addendum")
"""Sections that say what is seen, not what was asked, done before, or advised."""
SEEN, WHOLE = "seen", "whole"
PARTS = (SEEN, FINDINGS, IMPRESSION, WHOLE)
"""Of a report: what is of the image, one section, or all of it."""
HEADINGS = {
    BOTH: r"(?:provisional )?findings? ?(?:and|&|/|,)? ?impressions?(?: ?\(pfi\))?",
    FINDINGS: r"(?:chest )?findings?|description|report",
    IMPRESSION: r"impressions?|conclusions?|opinion|summary|interpretation",
    "examination": r"(?:type of )?exam(?:ination)?s?|study|procedure",
    "indication": r"(?:clinical )?(?:indications?|history|information|data|statement|question)|medical condition"
    r"|reasons? for (?:the |this )?(?:exam(?:ination)?|study)",
    "technique": r"techniques?|views?",
    "comparison": r"comparisons?|prior (?:study|studies|exam(?:ination)?s?)",
    "recommendation": r"recommendations?(?: ?\(s\))?",
    "notification": r"notifications?|communications?|signed by|dictated by",
    "wet read": r"(?:preliminary )?wet read|preliminary report",
    "addendum": r"(?:final )?addendum",
    "final report": r"final report",
}
"""Name of a section -> how its heading is written, in any case. Other words before a colon ("LUNGS:") are text of the
section in which they stand."""
_NAMED = "|".join(f"(?P<_{place}>{words})" for place, words in enumerate(HEADINGS.values())).replace(" ", r"[^\S\n]")
_HEADING = re.compile(
    rf"(?:^[^\S\n]*|(?<=[.!?:;_)])\s+(?=[A-Z]))(?i:{_NAMED})[^\S\n]*:"  # at the start of a line, or of a sentence
    rf"|^[^\S\n]*(?i:{_NAMED.replace('?P<_', '?P<alone_')})[^\S\n]*$",  # alone on a line
    re.MULTILINE,
)
_BLANK_LINE = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class Section:
    """What stands below one heading.

    Attributes:
        name: a key of `HEADINGS`; "" for what no heading names.
        start, end: of its text in the report, without the heading and the space around it.
    """

    name: str
    start: int
    end: int

    def of(self, report: str) -> str:
        """Its text."""
        return report[self.start : self.end]


def sections(report: str) -> list[Section]:
    """The sections in order, those without text left out. A name may come twice, as that of an addendum does."""
    parts = []
    for name, start, end in _between_headings(report):
        blank = _BLANK_LINE.search(report, start + _leading_space(report[start:end]), end) if name in BEFORE else None
        ends = [(name, start, end)] if blank is None else [(name, start, blank.start()), (UNNAMED, blank.end(), end)]
        parts += [Section(part, *_stripped(report, first, last)) for part, first, last in ends]
    return [part for part in parts if part.start < part.end]


def text_of(report: str, part: str) -> str:
    """A part of a report, of `PARTS`, without headings; "" for nothing. Findings and impression under one heading are
    both."""
    if part == WHOLE:
        return report.strip()
    names = OF_THE_IMAGE if part == SEEN else (part, BOTH)
    return "\n\n".join(each.of(report) for each in sections(report) if each.name in names)


def _between_headings(report: str) -> Iterator[tuple[str, int, int]]:
    name, start = UNNAMED, 0
    for match in _HEADING.finditer(report):
        yield name, start, match.start()
        name, start = list(HEADINGS)[int(str(match.lastgroup).rpartition("_")[2])], match.end()
    yield name, start, len(report)


def _leading_space(text: str) -> int:
    return len(text) - len(text.lstrip())


def _stripped(report: str, start: int, end: int) -> tuple[int, int]:
    text = report[start:end]
    return start + _leading_space(text), start + len(text.rstrip())

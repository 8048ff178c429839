"""Sentences with their times as published sets keep them, besides those of `caption_sets.py`.

* Charades-STA (arXiv 1705.02101): lines "VIDEO start end##sentence", in `charades_sta_train.txt` and `..._test.txt`.
* QVHighlights (arXiv 2107.09609): JSON lines with vid, query and relevant_windows, several per sentence; those of its
  test have none, and are no annotations.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...core.data import Table
from ...core.errors import DataError, shortened
from ...core.runtime import read_text
from .annotations import Annotation, seconds, split_in

CHARADES_LINE = re.compile(r"^(\S+) (\S+) (\S+)##(.*)$")
QVHIGHLIGHTS = ("vid", "query", "relevant_windows")


def is_charades(path: Path) -> bool:
    """Whether a text file begins as Charades-STA's do."""
    return CHARADES_LINE.match(read_text(path).lstrip().split("\n", 1)[0].strip()) is not None


def charades_annotations(path: Path) -> list[Annotation]:
    """Charades-STA's sentences.

    Raises:
        DataError: a line of another form, or times in the wrong order.
    """
    annotations = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        place, match = f"{path} line {number}", CHARADES_LINE.match(line.strip())
        if match is None:
            raise DataError(f"{place}: '{shortened(line)}' is not of the form 'VIDEO start end##sentence'; correct it")
        video, start, end, text = match.groups()
        annotations.append(_moment(video, text.strip(), start, end, place, split_in(path.stem)))
    return annotations


def qvhighlights_rows(table: Table) -> list[Annotation]:
    """QVHighlights' sentences, one annotation for each of their windows.

    Raises:
        DataError: windows that are no lists of two times.
    """
    video, query, windows = (table.column_of([name]) for name in QVHIGHLIGHTS)
    annotations = []
    for row in table.rows:
        listed = row.values.get(windows) or []
        if not isinstance(listed, list) or not all(isinstance(each, list) and len(each) == 2 for each in listed):
            raise DataError(f"{row.place}: relevant_windows are '{shortened(str(listed))}'; give [[start, end], ...]")
        name, text = row.text(video), row.text(query)
        split = split_in(table.path.stem)
        annotations += [_moment(name, text, start, end, row.place, split) for start, end in listed]
    return annotations


def _moment(video: str, text: str, start: object, end: object, place: str, split: str) -> Annotation:
    begins, ends = seconds(start, place), seconds(end, place)
    if begins is None or ends is None or begins >= ends:
        raise DataError(f"{place}: begins at {start} seconds and ends at {end}; correct the times")
    return Annotation(video, place, captions=(text,), start=begins, end=ends, split=split, group=video)

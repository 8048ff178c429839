"""`curate report`: one page on the decisions of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contracts.options import options_from
from ..curation import curation_report, last_of, record_of
from ..errors import DataError
from ..runs.run_sections import write_report
from ..runtime.reading import read_json
from ..shards import ShardPlace
from ..shards.sources import Source
from .options import ReportOptions
from .shard_jobs import manifest_of


def report_on_curation(
    decisions: str | Path,
    out: str | Path | None = None,
    **given: Any,
) -> Path:
    """Write report.html on the decisions of a stage. Returns its path.

    Args:
        decisions: folder that `curate` gave, or the folder that was its `out`: then of the last stage in it.
        out: folder for the page; by default `decisions`.
        given: options of `ReportOptions`; without attributes the page tells of women and men.

    Raises:
        DataError: a stage has not ended, its table is gone, or the page cannot be written. ConfigError: other than two
            attributes.
    """
    asked = options_from(ReportOptions, given, "curate report")
    words = None if asked.attributes is None else read_attributes(Path(asked.attributes))
    folder = last_of(Path(decisions))
    named = record_of(folder).get("sources") or ()
    page = curation_report(folder, _there(named, folder), words, asked.faces)
    return write_report(decisions if out is None else out, page)


def read_attributes(path: Path) -> dict[str, list[str]]:
    """Two attributes, each with the words that tell of it, of a JSON file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    content = read_json(path)
    lists = content.values() if isinstance(content, dict) else ()
    if len(lists) != 2 or not all(isinstance(words, list) and words for words in lists):
        raise DataError(
            f'{path}: not two attributes with their words; write {{"old": ["old"], "new": ["new", "recent"]}}'
        )
    return {str(name): [str(word) for word in words] for name, words in content.items()}


def _there(named: Sequence[str], folder: Path) -> Sequence[Source]:
    """The sources, as far as they are still there: a page needs no pictures."""
    try:
        return manifest_of(named, ShardPlace(str(folder.parent))).sources if named else ()
    except DataError:
        return ()

"""`curate report`: one page on the decisions of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..curation import curation_report, last_of, record_of
from ..errors import DataError
from ..runs.run_sections import write_report
from ..runtime.reading import read_json
from ..shards import ShardPlace
from ..shards.sources import Source
from .shard_jobs import manifest_of


def report_on_curation(
    decisions: str | Path,
    *,
    attributes: Mapping[str, Sequence[str]] | None = None,
    faces: bool = False,
    out: str | Path | None = None,
) -> Path:
    """Write report.html on the decisions of a stage. Returns its path.

    Args:
        decisions: folder that `curate` gave, or the folder that was its `out`: then of the last stage in it.
        out: folder for the page; by default `decisions`.
        attributes: two names -> words that tell of them in a text; by default of women and men.
        faces: whether pictures are shown as they are, and not as coarse mosaics.

    Raises:
        DataError: a stage has not ended, its table is gone, or the page cannot be written. ConfigError: other than two
            attributes.
    """
    folder = last_of(Path(decisions))
    named = record_of(folder).get("sources") or ()
    page = curation_report(folder, _there(named, folder), attributes, faces)
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

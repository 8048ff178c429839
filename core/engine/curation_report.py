"""`curate report`: one page on the decisions of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..curation import curation_report, last_of, record_of
from ..errors import DataError
from ..runs.run_sections import write_report
from ..shards import Place
from ..shards.sources import Source
from .shard_jobs import manifest_of


def report_on_curation(
    decisions: str | Path, *, attributes: Mapping[str, Sequence[str]] | None = None, faces: bool = False
) -> Path:
    """Write report.html beside the decisions of a stage. Returns its path.

    Args:
        decisions: folder that `curate` gave, or the folder that was its `out`: then of the last stage in it.
        attributes: two names -> words that tell of them in a text; by default of women and men.
        faces: whether pictures are shown as they are, and not as coarse mosaics.

    Raises:
        DataError: a stage has not ended, its table is gone, or the page cannot be written. ConfigError: other than two
            attributes.
    """
    folder = last_of(Path(decisions))
    named = record_of(folder).get("sources") or ()
    return write_report(folder, curation_report(folder, _there(named, folder), attributes, faces))


def _there(named: Sequence[str], folder: Path) -> Sequence[Source]:
    """The sources, as far as they are still there: a page needs no pictures."""
    try:
        return manifest_of(named, Place(str(folder.parent))).sources if named else ()
    except DataError:
        return ()

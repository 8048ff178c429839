"""`curate remove`: opt-outs and takedowns leave the decisions, and the indices that were made of the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.options import keywords
from ..contracts.shown import in_short
from ..curation import parts_of, read_part
from ..curators.removal import read_ids, read_sums
from ..data.file_hashes import FileHashes
from ..errors import ConfigError, DataError
from ..retrieval.changes import IndexChange
from ..retrieval.columns import rows_with
from ..retrieval.segments import Segment
from ..runtime.progress import Reporter
from ..runtime.reading import read_bytes
from ..shards import Place
from .curate import Curated, curate
from .options import CurateOptions


@dataclass
class Removed:
    """What left.

    Attributes:
        decisions: what is left of the pairs; None where indices alone were asked for.
        indices: index -> how many of its entries were deleted.
    """

    __repr__ = in_short

    decisions: Curated | None
    indices: dict[str, int] = field(default_factory=dict)


@keywords(CurateOptions)
def remove(
    sources: Sequence[str | Path],
    out: str | Path | None,
    *,
    ids: str | None = None,
    hashes: str | None = None,
    indices: Sequence[str | Path] = (),
    reporter: Reporter | None = None,
    **given: Any,
) -> Removed:
    """Take pairs out of the decisions, as a further stage (`removal`), and images out of indices.

    Args:
        sources, out, given: as of `curate`; `after` is the decisions that are left. None of these for indices alone.
        ids: file of ids, one per line.
        hashes: file of sha256 or md5 sums of images, one per line.
        indices: folders of `vladapt index`. Entries go by their id, and where the image is a file that is there still,
            by its sum; what decisions drop for its sum goes by its id as well.

    Raises:
        ConfigError: nothing is asked for. DataError: as of `curate`; a list cannot be read, or an index would be empty.
    """
    if not (ids or hashes):
        raise ConfigError("give --ids FILE, --hashes FILE, or both")
    if out is None and not indices:
        raise ConfigError("give --out and the pairs, or --index")
    listed = read_ids(Path(ids)) if ids else frozenset()
    sums = read_sums(Path(hashes)) if hashes else {}
    reporter, decisions = reporter or Reporter(quiet=True), None
    if out is not None:
        options = {name: value for name, value in (("ids", ids), ("hashes", hashes)) if value}
        decisions = curate("removal", sources, out, options=options, reporter=reporter, **given)
        listed |= _dropped(decisions.folder)
    removed = Removed(decisions)
    for path in indices:
        reporter.info(f"Looking for what is removed in {path}")
        removed.indices[str(path)] = _delete(Path(path), listed, sums)
    return removed


def _dropped(folder: Path) -> frozenset[str]:
    place, dropped = Place(str(folder)), set()
    for name in parts_of(place):
        table = read_part(place, name, ("id", "keep"))
        rows = np.flatnonzero(~table["keep"].to_numpy())
        dropped.update(table["id"].take(rows).to_pylist())
    return frozenset(dropped)


def _delete(path: Path, ids: frozenset[str], sums: dict[str, frozenset[str]]) -> int:
    with IndexChange(path) as change:
        gone: set[str] = set()
        hashes = FileHashes()
        for segment in change.opened.segments:
            rows = rows_with(segment.columns, segment.entries, ids) & segment.live
            gone.update(segment.entries[int(row)].id for row in np.flatnonzero(rows))
            if sums:
                gone.update(_known(segment, sums, hashes))
        return change.delete(gone) if gone else 0


def _known(segment: Segment, sums: dict[str, frozenset[str]], hashes: FileHashes) -> Iterator[str]:
    """Ids of the entries whose file has one of the sums."""
    for row in np.flatnonzero(segment.live):
        entry = segment.entries[int(row)]
        if entry.source is None or not Path(entry.source).is_file():
            continue
        try:
            own = {kind: _sum(kind, entry.source, hashes) for kind in sums}
        except DataError:  # cannot be read any more: its sum is not known
            continue
        if any(own[kind] in some for kind, some in sums.items()):
            yield entry.id


def _sum(kind: str, file: str, hashes: FileHashes) -> str:
    if kind == "sha256":
        return hashes.sha256(file)
    return hashlib.md5(read_bytes(Path(file), "restore it"), usedforsecurity=False).hexdigest()

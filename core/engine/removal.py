"""`curate remove`: opt-outs and takedowns leave the decisions, and the indices that were made of the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.curator import PairTable
from ..contracts.options import keywords
from ..contracts.shown import in_short
from ..curation import open_table, record_of
from ..curation.lists import Positions
from ..curators.removal import read_ids, read_sums
from ..data.file_hashes import FileHashes
from ..errors import ConfigError, DataError
from ..retrieval.changes import IndexChange
from ..retrieval.columns import rows_with
from ..retrieval.head import read_head
from ..runtime.progress import Reporter
from ..runtime.reading import read_bytes
from .curate import Curated, curate
from .options import RemovalOptions


@dataclass
class Removed:
    """What left.

    Attributes:
        decisions: what is left of the pairs; None where indices alone were asked for.
        indices: index -> how many of its entries were deleted.
        unchecked: index -> how many of the others cannot be judged by `hashes`: they are in tars, or their files are
            gone, and none of the pairs has their id.
    """

    __repr__ = in_short

    decisions: Curated | None
    indices: dict[str, int] = field(default_factory=dict)
    unchecked: dict[str, int] = field(default_factory=dict)


@keywords(RemovalOptions)
def remove(
    sources: Sequence[str | Path],
    out: str | Path | None,
    *,
    indices: Sequence[str | Path] = (),
    reporter: Reporter | None = None,
    **given: Any,
) -> Removed:
    """Take pairs out of the decisions `after`, as a further stage (`removal`), and images out of indices.

    Args:
        sources, out: as of `curate`; none of these for indices alone.
        indices: folders of `vladapt index`. Entries go by their id, and where the image is a file that is there still,
            by its sum; of all pairs, those that `after` has dropped as well, what has such a sum goes by its id too.
        given: options of `RemovalOptions`.

    Raises:
        ConfigError: nothing is asked for. DataError: as of `curate`; a list cannot be read, or an index would be empty.
    """
    ids, hashes = (given.pop(name, None) for name in ("ids", "hashes"))
    if not (ids or hashes):
        raise ConfigError("give --ids FILE, --hashes FILE, or both")
    if out is None and not indices:
        raise ConfigError("give --out and the pairs, or --index")
    for path in indices:
        read_head(Path(path))
    listed = read_ids(Path(ids)) if ids else frozenset()
    sums = read_sums(Path(hashes)) if hashes else {}
    reporter, decisions, judged = reporter or Reporter(quiet=True), None, None
    if out is not None:
        options = {name: value for name, value in (("ids", ids), ("hashes", hashes)) if value}
        decisions = curate("removal", sources, out, options=options, reporter=reporter, **given)
        if indices and sums:
            table = open_table(Path(record_of(decisions.folder)["table"]))
            listed, judged = listed | _with_sums(table, sums), Positions(table.ids)
    removed = Removed(decisions)
    for path in indices:
        reporter.info(f"Looking for what is removed in {path}")
        removed.indices[str(path)], removed.unchecked[str(path)] = _delete(Path(path), listed, sums, judged)
    return removed


def _with_sums(table: PairTable, sums: dict[str, frozenset[str]]) -> frozenset[str]:
    """Ids of the pairs whose image has one of the sums."""
    return frozenset(
        name
        for rows in table.blocks()
        for kind, some in sums.items()
        for name, own in zip(table.names(rows), table.strings(kind, rows))
        if own.lower() in some
    )


def _delete(
    path: Path, ids: frozenset[str], sums: dict[str, frozenset[str]], judged: Positions | None
) -> tuple[int, int]:
    """How many entries went, and how many of the others cannot be judged by their sums."""
    with IndexChange(path) as change:
        gone: set[str] = set()
        unchecked: list[str] = []
        hashes = FileHashes()
        for segment in change.opened.segments:
            rows = rows_with(segment.columns, segment.entries, ids) & segment.live
            gone.update(segment.entries[int(row)].id for row in np.flatnonzero(rows))
            for row in np.flatnonzero(segment.live & ~rows) if sums else ():
                entry = segment.entries[int(row)]
                listed = _is_known(entry.source, sums, hashes)
                if listed is None:
                    unchecked.append(entry.id)
                elif listed:
                    gone.add(entry.id)
        count = int((judged.of(unchecked) < 0).sum()) if judged is not None else len(unchecked)
        return (change.delete(gone) if gone else 0), count


def _is_known(source: str | None, sums: dict[str, frozenset[str]], hashes: FileHashes) -> bool | None:
    """Whether the file of an entry has one of the sums; None where it cannot be read."""
    if source is None or not Path(source).is_file():
        return None
    try:
        return any(_sum(kind, source, hashes) in some for kind, some in sums.items())
    except DataError:
        return None


def _sum(kind: str, file: str, hashes: FileHashes) -> str:
    if kind == "sha256":
        return hashes.sha256(file)
    return hashlib.md5(read_bytes(Path(file), "restore it"), usedforsecurity=False).hexdigest()

"""`search --evaluate --submission`: answers to composed queries, as the server of CIRR or CIRCO takes them.

* CIRR: `recall.json`, of each pair the 50 best images without the reference, and `recall_subset.json`, the three best
  of its set (https://cirr.cecs.anu.edu.au).
* CIRCO: `circo.json`, of each query the numbers of the 50 best images (https://circo.micc.unifi.it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..retrieval.composed_sets import CIRCO, CIRR, ComposedQuery, ComposedSet
from ..retrieval.index import RetrievalIndex
from ..runs.folder import make_folder
from ..runtime.files import write_whole
from ..runtime.reading import json_text
from .composed_gallery import QUERIES_AT_ONCE, Marks, query_factors, score_blocks
from .queries import QueryEncoder

BEST, BEST_OF_SET = 50, 3
"""Images that a server takes of each query."""


def check_submission(composed: ComposedSet, file: Path, folder: Path) -> None:
    """Raise the error of a set without a server, of queries without a number, or of a place that is no folder."""
    if composed.name not in (CIRR, CIRCO):
        raise ConfigError(f"--submission {folder}: {composed.name} has no server; omit it")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--submission {folder}: is a file; give a folder")
    numbers = [query.number for query in composed.queries]
    if "" in numbers or len(set(numbers)) < len(numbers):
        key = "pairid" if composed.name == CIRR else "id"
        raise DataError(f"{file}: each query needs a '{key}' of its own, by which the server knows it; fetch it again")


def write_submission(
    opened: RetrievalIndex,
    composed: ComposedSet,
    encode: QueryEncoder,
    places: Mapping[str, int],
    allowed: np.ndarray | None,
    file: Path,
    folder: Path,
) -> list[Path]:
    """Answer all queries; returns the files.

    Args:
        places: name of an image -> its row.
        allowed: (rows,) which are searched; None for all.
        file: of the queries.
    """
    make_folder(folder)
    best: dict[str, list[str]] = {}
    of_set: dict[str, list[str]] = {}
    for start in range(0, len(composed.queries), QUERIES_AT_ONCE):
        some = composed.queries[start : start + QUERIES_AT_ONCE]
        factors = query_factors(some, encode, places, file)[""]
        rows, in_set = _best(opened, some, factors, places, allowed, composed.name == CIRR)
        names = _names(opened, composed, rows)
        for number, query in enumerate(some):
            best[query.number] = [names[row] for row in rows[number].tolist() if row >= 0]
            of_set[query.number] = [query.members[i] for i in in_set[number].tolist()]
    if composed.name == CIRCO:
        contents: dict[str, Any] = {"circo": {number: list(map(int, names)) for number, names in best.items()}}
    else:
        version = {"version": "rc2"}
        contents = {
            "recall": {**version, "metric": "recall", **best},
            "recall_subset": {**version, "metric": "recall_subset", **of_set},
        }
    for name, content in contents.items():
        write_whole(folder / f"{name}.json", json_text(content))
    return [folder / f"{name}.json" for name in contents]


def _best(
    opened: RetrievalIndex,
    queries: Sequence[ComposedQuery],
    factors: Tensor,
    places: Mapping[str, int],
    allowed: np.ndarray | None,
    without_reference: bool,
) -> tuple[Tensor, Tensor]:
    """Rows of the best images of each query (Q, `BEST`), -1 where there are fewer, and places of the best among its
    members (Q, M), M at most `BEST_OF_SET`; of equal ones the first first."""
    members = Marks.of([[places[name] for name in query.members] for query in queries])
    references = Marks.of([[places[query.reference]] if without_reference else [] for query in queries])
    of_members = members.empty()
    scores = torch.full((len(queries), BEST), -torch.inf)
    rows = torch.full((len(queries), BEST), -1)
    for _, numbers, some in score_blocks(opened, {"": factors}, allowed):
        members.gather(numbers, some, of_members)
        references.leave_out(numbers, some)
        scores, order = torch.cat([scores, some], dim=1).sort(dim=1, descending=True, stable=True)
        of_block = torch.from_numpy(numbers).to(rows).expand(len(queries), -1)
        rows = torch.cat([rows, of_block], dim=1).gather(1, order)[:, :BEST]
        scores = scores[:, :BEST]
    rows = rows.where(scores.isfinite(), -1)
    return rows, of_members.argsort(dim=1, descending=True, stable=True)[:, :BEST_OF_SET]


def _names(opened: RetrievalIndex, composed: ComposedSet, rows: Tensor) -> dict[int, str]:
    """Row -> what the set calls its image."""
    names = {}
    ranked = np.unique(rows[rows >= 0].numpy())
    for segment in opened.segments:
        for row in ranked[(ranked >= segment.first) & (ranked < segment.first + segment.count)].tolist():
            names[row] = composed.keys_of(segment.entries[row - segment.first].source or "")
    return names

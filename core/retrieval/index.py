"""An index on disk, opened: checked, searched, its entries read one by one.

A folder holds `index.faiss` (the rows), `entries.jsonl` (what each row is), `entries.offsets` (where each line begins)
and `index.json` (the backbone and its fingerprint, the kind, sizes and checksums). Data only: opening one runs no code
of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ... import __version__
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..data.nearest import faiss_library
from ..errors import CapabilityError, DataError
from .build import FACTS, FILES, FORMAT, PART_COUNTS, PARTS, VECTORS_FILE, facts_of
from .entries import Entries, Entry, damaged
from .image_reader import ImageReader
from .kinds import KINDS, look_further
from .wanted import Wanted

KEYS = {"kind": str, "dims": int, "entries": int, "files": dict, "backbone": dict, "holds": str}
"""What index.json cannot do without, and of which kind it is."""
MORE = 8
"""Times as many rows as before are looked at where a filter leaves too few."""


@dataclass(frozen=True)
class Hit:
    """One result: its rank from 1, its cosine with the query, what it is, and its row in the index; `cluster` numbers
    what looks like the same thing, where results are clustered."""

    rank: int
    score: float
    entry: Entry
    place: int = -1
    cluster: int | None = None


class RetrievalIndex:
    """See `open`.

    Attributes:
        path: the folder.
        info: what index.json holds.
        entries: what each row is, read from disk when asked for.
    """

    def __init__(self, path: Path, info: dict[str, Any], entries: Entries, rows: Any):
        self.path, self.info, self.entries, self._rows = path, info, entries, rows

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether the folder holds an index."""
        return (folder / FACTS).is_file()

    @classmethod
    def open(cls, path: str | Path) -> RetrievalIndex:
        """The index in a folder, its files checked against what was written.

        Raises:
            DataError: no index there, of another format, or a missing or damaged file. CapabilityError: no faiss.
        """
        path = Path(path)
        info = _info(path)
        for name in (*FILES, *(name for name in (PARTS, PART_COUNTS) if name in info["files"])):
            if not (path / name).is_file():
                raise DataError(f"{path / name}: missing; copy the whole folder, or make the index again")
            if facts_of(path / name) != info["files"].get(name):
                raise damaged(path / name, "not what was written")
        faiss = faiss_library()
        try:
            rows = faiss.read_index(str(path / VECTORS_FILE))
        except (RuntimeError, MemoryError) as error:
            raise damaged(path / VECTORS_FILE, "faiss cannot read it") from error
        if (rows.ntotal, rows.d) != (info["entries"], info["dims"]):
            raise damaged(path / VECTORS_FILE, f"holds {rows.ntotal} rows of width {rows.d}")
        return cls(path, info, Entries(path, info["entries"]), rows)

    def __len__(self) -> int:
        return self.info["entries"]

    def reader(self, domain: Domain | None = None, options: Mapping[str, Any] | None = None) -> ImageReader:
        """What reads its images again; arguments and errors as of `ImageReader.again`."""
        return ImageReader.again(self.info.get("reading") or {}, self.path, domain, options)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse another backbone than that of the rows.

        Raises:
            CapabilityError: the fingerprints differ.
        """
        made_by = self.info["backbone"]
        if backbone.fingerprint != made_by.get("fingerprint"):
            raise CapabilityError(
                f"{self.path}: made with backbone '{made_by.get('spec')}' ({str(made_by.get('fingerprint'))[:12]}), "
                f"not with '{backbone.spec}' as it is now ({backbone.fingerprint[:12]}); give that backbone, or make "
                "the index again"
            )

    def search(self, query: Tensor, top: int = 10, wanted: Wanted | None = None) -> list[Hit]:
        """The nearest entries, the best first; of equal scores the one indexed first.

        Args:
            query: (D,) unit.
            top: how many at most; an approximate kind may find fewer.
            wanted: only entries that this has. More and more are looked at until there are enough.

        Raises:
            CapabilityError: the query is of another width.
            DataError, ConfigError: no entry can be wanted.
        """
        if query.shape != (self.info["dims"],):
            raise CapabilityError(
                f"{self.path}: holds rows of width {self.info['dims']}, the query is {tuple(query.shape)}; "
                "encode it with the backbone of the index"
            )
        top = min(top, len(self))
        row = np.ascontiguousarray(query.detach().to("cpu", torch.float32).numpy()[None])  # (1, D)
        if not wanted:
            best = self._nearest(row, top)
            return [Hit(rank, score, self.entries[place], place) for rank, (score, place) in enumerate(best, start=1)]
        wanted.check(self.info, self.path)
        kept: dict[int, Entry | None] = {}
        count = min(len(self), MORE * top)
        while True:
            best = self._nearest(row, count)
            for _, place in best:
                if place not in kept:
                    kept[place] = entry if wanted.has(entry := self.entries[place]) else None
            found = [(score, place) for score, place in best if kept[place] is not None][:top]
            if len(found) == top or count == len(self):
                return [Hit(rank, score, kept[place], place) for rank, (score, place) in enumerate(found, start=1)]
            count = min(len(self), MORE * count)

    def vectors(self, hits: Sequence[Hit]) -> np.ndarray:
        """(n, D) rows of some results, as they were indexed."""
        if not hits:
            return np.zeros((0, self.info["dims"]), np.float32)
        if hasattr(self._rows, "make_direct_map"):
            self._rows.make_direct_map()
        return np.stack([self._rows.reconstruct(hit.place) for hit in hits])

    def parts(self, hits: Sequence[Hit]) -> tuple[Tensor, Tensor]:
        """(n, T, D) features of the parts of some results, zero where there is none, and (n, T) bool, which are there.

        Raises:
            DataError: the index holds none, or not those of its entries.
        """
        if PARTS not in self.info["files"]:
            raise DataError(f"{self.path}: holds no features of parts; make the index again with the run")
        counts, width = np.fromfile(self.path / PART_COUNTS, "<u4").astype(np.int64), self.info["dims"]
        ends = counts.cumsum()
        if len(counts) != len(self) or (self.path / PARTS).stat().st_size != 4 * width * int(ends[-1]):
            raise damaged(self.path / PARTS, f"does not hold the parts of {len(self)} entries")
        table = np.memmap(self.path / PARTS, "<f4", "r", shape=(int(ends[-1]), width))
        rows = [
            torch.from_numpy(np.array(table[ends[hit.place] - counts[hit.place] : ends[hit.place]])) for hit in hits
        ]
        there = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(there, batch_first=True)

    def _nearest(self, row: np.ndarray, count: int) -> list[tuple[float, int]]:
        """(score, place), the best first."""
        look_further(self._rows, count)
        scores, places = self._rows.search(row, count)  # (1, count) each, -1 where an approximate kind found none
        best = sorted((-float(score), int(place)) for score, place in zip(scores[0], places[0]) if place >= 0)
        return [(-score, place) for score, place in best]


def _info(path: Path) -> dict[str, Any]:
    file = path / FACTS
    if not path.exists():
        raise DataError(f"{path}: no such index; give a folder that `vladapt index` wrote")
    if not file.is_file():
        raise DataError(f"{path}: no {FACTS} there; give a folder that `vladapt index` wrote")
    try:
        info = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise damaged(file, "not readable as JSON") from error
    if not isinstance(info, dict):
        raise damaged(file, "holds no JSON object")
    if info.get("format") != FORMAT:
        raise DataError(
            f"{file}: of index format {info.get('format')} (vladapt {info.get('vladapt')}), vladapt {__version__} "
            f"reads format {FORMAT}; use that version, or make the index again"
        )
    wrong = [key for key, kind in KEYS.items() if not isinstance(info.get(key), kind)]
    checks = {"kind": lambda kind: kind in KINDS, "entries": lambda count: count > 0}
    wrong = wrong or [key for key, check in checks.items() if not check(info[key])]
    if wrong:
        raise damaged(file, f"'{wrong[0]}' is not usable")
    return info


def mixed(text: Tensor | None, image: Tensor | None, weight: float = 0.5) -> Tensor:
    """The query of a text, an image, or both: "like this picture, but at night".

    Both are brought to unit length, added by weight, and the sum to unit length again: the mean direction.

    Args:
        text: (D,) feature, or None where there is an image.
        image: (D,) feature, or None where there is a text.
        weight: share of the text where there are both, 0..1.

    Returns:
        (D,) unit.

    Raises:
        DataError: a feature is NaN or infinity.
    """
    for kind, feature in (("text", text), ("image", image)):
        if feature is not None and not feature.isfinite().all():
            raise DataError(f"the backbone gives NaN or infinity for the {kind} of the query; give another {kind}")
    if text is None or image is None:
        return F.normalize((image if text is None else text).float(), dim=-1)
    both = weight * F.normalize(text.float(), dim=-1) + (1 - weight) * F.normalize(image.float(), dim=-1)
    return F.normalize(both, dim=-1)

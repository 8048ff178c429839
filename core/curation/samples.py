"""Some pairs as they are, for a page: the first of a few sources, and what was decided of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from ..contracts.curator import PairTable
from ..data.images import decode_bytes
from ..errors import DataError, shortened
from ..runtime.remote import is_object_store, is_url
from ..shards.sources import ShardRow, Source
from .record import record_of
from .stored import database
from .table import decided

SOURCES, ROWS_PER_SOURCE = 4, 250
SQUARES = 28
"""In the longer side of a mosaic: enough to know a scene, too few to know a face that does not fill the picture."""
MOST_WORDS, SIDE = 90, 210


@dataclass(frozen=True)
class StoredSample:
    """A pair, its image not yet decoded.

    Args:
        dropped_by: (curator, rule), empty where it is kept.
        place: its position in the table.
        faces: whether its picture stays as it is.
    """

    row: ShardRow
    dropped_by: tuple[str, str] | tuple[()]
    place: int
    faces: bool

    @property
    def caption(self) -> str:
        return shortened(self.row.text or "(no text)", MOST_WORDS)

    def picture(self) -> np.ndarray | None:
        """(h, w, 3) uint8, small; None where it cannot be read, or lies on the web: a page loads nothing from there."""
        if not self.row.has_image or (is_url(self.row.path) and not is_object_store(self.row.path)):
            return None
        try:
            pixels = np.asarray(decode_bytes(self.row.read(), self.row.id))
        except DataError:
            return None
        levels = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
        image = Image.fromarray(levels)
        image.thumbnail((SIDE, SIDE))
        return np.asarray(image) if self.faces else mosaic(np.asarray(image))


def pictured(some: Sequence[StoredSample], most: int) -> list[tuple[np.ndarray, str]]:
    """(picture, caption) of the first that have one."""
    with_one = ((picture, each.caption) for each in some if (picture := each.picture()) is not None)
    return list(islice(with_one, most))


def samples(sources: Sequence[Source], table: PairTable, stages: Sequence[Path], faces: bool) -> list[StoredSample]:
    """The first pairs of a few sources.

    Args:
        stages: folders of decisions, in order.
        faces: whether pictures stay as they are.
    """
    rows = list(_rows(sources))
    if not rows:
        return []
    reasons = _reasons([row.id for row in rows], stages)
    places = _places([row.id for row in rows], table)
    return [StoredSample(row, reasons.get(row.id, ()), places[row.id], faces) for row in rows if row.id in places]


def mosaic(image: np.ndarray, squares: int = SQUARES) -> np.ndarray:
    """A picture of so few squares that no face is known.

    Args:
        image: (H, W, 3) uint8.
        squares: in the longer side.
    """
    height, width = image.shape[:2]
    scale = squares / max(height, width)
    if scale >= 1:
        return image
    small = Image.fromarray(image).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def _rows(sources: Sequence[Source]) -> Iterator[ShardRow]:
    chosen = np.unique(np.linspace(0, len(sources) - 1, min(SOURCES, len(sources))).round().astype(int))
    for place in chosen.tolist():
        source = sources[place]
        stop = ROWS_PER_SOURCE if source.count is None else min(source.count, ROWS_PER_SOURCE)
        yield from islice(source.read(0, stop), ROWS_PER_SOURCE)


def _reasons(ids: Sequence[str], stages: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Id -> (curator, rule) of the first stage that drops it."""
    made: dict[str, tuple[str, str]] = {}
    with database() as base:
        for folder in stages:
            query = "SELECT id, reason FROM read_parquet(?, hive_partitioning = false) WHERE NOT keep"
            query += " AND id IN (SELECT unnest(?))"
            name = str(record_of(folder)["curator"])
            for id_, reason in base.execute(query, [decided(str(folder)), list(ids)]).fetchall():
                made.setdefault(id_, (name, reason))
    return made


def _places(ids: Sequence[str], table: PairTable) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.array(sorted(ids), table.ids.type)
    places = pc.index_in(values, table.ids)
    return {id_: place for id_, place in zip(values.to_pylist(), places.to_pylist()) if place is not None}

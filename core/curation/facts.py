"""What is to be known of each pair of some shards besides features: its text, columns of the source, facts of the file.

A column that the source has is taken from there; size, sum and hash of an image are measured where it has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, TEXT
from ..data.images import decode_picture, upright_size
from ..data.thumbnails import perceptual_hashes, thumbnail, thumbnail_pictures
from ..errors import DataError
from ..shards import Manifest, Stage, Unreadable
from ..shards.sources import ParquetSource, ShardRow

if TYPE_CHECKING:
    import pyarrow

MEASURED = {
    "bytes": "int64",
    "sha256": "string",
    "md5": "string",
    "width": "int32",
    "height": "int32",
    "pixels_sha256": "string",
    "phash": "uint64",
}
"""Columns that can be measured of an image -> type: size in bytes, width and height as stored, sums, pHash."""
SIZES, DECODED = {"width", "height"}, {"pixels_sha256", "phash"}
ROWS_AT_ONCE = 256
"""With their images."""
FEATURES = (IMAGE_FEATURES, CAPTION_FEATURES)


@dataclass(frozen=True)
class PairFacts(Stage):
    """A stage that writes id, text, and what else curators read.

    Args:
        own: columns of the sources -> type, as pyarrow calls it.
        measured: columns of `MEASURED`; null where a pair has no image.
    """

    own: tuple[tuple[str, str], ...]
    measured: tuple[str, ...]
    name: str = "pairs"

    @classmethod
    def of(cls, manifest: Manifest, reads: Iterable[str], may_read: Iterable[str] = ()) -> PairFacts:
        """The stage that gives some columns of the inputs; features apart.

        Args:
            may_read: columns that are left out where not all sources have them.

        Raises:
            DataError: a column that no source has and none can measure, or that is of another type in another source.
        """
        types = [plain_columns(source.schema()) for source in manifest.sources if isinstance(source, ParquetSource)]
        tables = len(types) == len(manifest.sources)
        own, measured = {}, []
        there = {name for name in may_read if tables and all(name in each for each in types)}
        for name in sorted({*reads, *there} - {TEXT, *FEATURES}):
            kinds = {each[name] for each in types if name in each}
            if tables and kinds and all(name in each for each in types):
                if len(kinds) > 1:
                    raise DataError(
                        f"column '{name}': is {' and '.join(sorted(kinds))} in different files; make it one"
                    )
                own[name] = kinds.pop()
            elif name in MEASURED:
                measured.append(name)
            else:
                raise DataError(
                    f"the pairs have no column '{name}'; give Parquet files with a column of that name in all of them, "
                    "or --columns DIR, a folder of `vladapt curate score`"
                )
        return cls(tuple(own.items()), tuple(measured))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.own)

    @property
    def written(self) -> tuple[str, ...]:
        """Names of what it writes besides id and text."""
        return (*self.columns, *self.measured)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"own": dict(self.own), "measured": list(self.measured)}

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        types = {**dict(self.own), **{name: MEASURED[name] for name in self.measured}}
        texts = [("id", pa.string()), (TEXT, pa.string())]
        return pa.schema([*texts, *((name, pa.type_for_alias(kind)) for name, kind in types.items())])

    def run(self, state: Any, rows: Iterator[ShardRow], batch_size: int) -> Iterator[pyarrow.Table | Unreadable]:
        import pyarrow as pa

        while some := list(islice(rows, ROWS_AT_ONCE)):
            made = []
            for row in some:
                if row.text_lost:
                    yield Unreadable(row.id, row.text_lost)
                    continue
                try:
                    measured = self._measured(row) if self.measured and row.has_image else {}
                except DataError as error:
                    yield Unreadable(row.id, str(error))
                    continue
                made.append({"id": row.id, TEXT: row.text, **row.columns, **measured})
            if made:
                yield pa.Table.from_pylist(made, self.schema)

    def _measured(self, row: ShardRow) -> dict[str, Any]:
        content = row.read()
        made: dict[str, Any] = {}
        if "bytes" in self.measured:
            made["bytes"] = len(content)
        if "sha256" in self.measured:
            made["sha256"] = hashlib.sha256(content).hexdigest()
        if "md5" in self.measured:
            made["md5"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if SIZES & set(self.measured):
            made["width"], made["height"] = upright_size(content, name=row.id)
        if DECODED & set(self.measured):
            pixels = eight_bits(content, row.id)
            made["pixels_sha256"] = hashlib.sha256(f"{pixels.size}".encode() + pixels.tobytes()).hexdigest()
            small = thumbnail(np.asarray(pixels))
            made["phash"] = None if small is None else int(perceptual_hashes(thumbnail_pictures(small[None]).grey)[0])
        return {name: value for name, value in made.items() if name in self.measured}


def eight_bits(content: bytes, name: str) -> Image.Image:
    """The picture of a file with eight bits per channel, whatever the file has.

    Raises:
        DataError: it cannot be read.
    """
    picture = decode_picture(content, name)
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture if picture.dtype == np.uint8 else (picture * 255).round().astype(np.uint8))


def plain_columns(schema: pyarrow.Schema) -> dict[str, str]:
    """Column -> type, of those that are numbers, flags or strings."""
    import pyarrow as pa

    plain = {field.name: field.type for field in schema}
    plain = {name: pa.string() if pa.types.is_large_string(kind) else kind for name, kind in plain.items()}
    fits = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return {name: str(kind) for name, kind in plain.items() if any(fit(kind) for fit in fits)}

"""Faces with captions in the form of FaceCaption-15M: tables (CSV, JSONL) or WebDataset shards.

"15M Multimodal Facial Image-Text Dataset" (Dai et al. 2024, arXiv 2407.08515). A row, or the `.json` of a sample, has
`face_caption`, and `face_box` (x0, y0, x1, y1 in pixels) where the image is more than the face, which is then cut out.
A table names its images in a column `image`. Every picture is taken for a person of its own.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ....core.contracts import Decoded, DomainData, Item
from ....core.data import IMAGE, PairSet, read_pairs
from ....core.errors import DataError, printable
from ....core.runtime import read_start
from ..pedestrian import Pedestrian
from ..reading import PersonReading, SetFormat

CAPTION, BOX = "face_caption", "face_box"
TABLES = (".csv", ".tsv", ".jsonl")
START = 1 << 16
MEMBERS_LOOKED_AT = 8


def find(path: Path) -> Path | None:
    """A table, a shard or a folder of shards whose beginning has `face_caption`; in a folder the only such table."""
    if path.is_file():
        return path if _is_one(path) else None
    if shards := PairSet.shards_in(path):
        return path if _is_one(shards[0]) else None
    tables = [file for file in sorted(path.iterdir()) if file.is_file() and _is_one(file)]
    return tables[0] if len(tables) == 1 else None


def _is_one(file: Path) -> bool:
    if file.suffix.lower() in TABLES:
        return CAPTION in read_start(file, START).decode("utf-8", "replace").split("\n", 1)[0]
    return file.suffix.lower() == ".tar" and CAPTION in "".join(_starts(file))


def _starts(shard: Path) -> Iterator[str]:
    """The beginnings of the first JSON members of a shard."""
    try:
        with tarfile.open(shard, "r:") as members:
            for _ in range(MEMBERS_LOOKED_AT):
                if (member := members.next()) is None:
                    return
                if member.isfile() and member.name.endswith(".json"):
                    yield members.extractfile(member).read(START).decode("utf-8", "replace")
    except (tarfile.TarError, OSError):
        return


def read(path: Path, reading: PersonReading, task: str) -> DomainData:
    """The faces; without splits a share of them is val and one is test (`read_pairs`).

    Raises:
        DataError: no face can be read, or a box that is none.
    """
    options = {"root": reading.root} if reading.root else {}
    options |= {"caption_column": CAPTION} if path.suffix.lower() in TABLES else {}
    columns = {CAPTION: "text", BOX: "numbers"}
    pairs = read_pairs(path, columns=columns, max_pixels=reading.max_pixels, **options)
    items = list(_items(pairs, path))
    return DomainData(
        items,
        (),
        _Loader(reading.max_pixels),
        kind="captions",
        name=pairs.name,
        skipped=list(pairs.skipped),
        notes=list(pairs.notes),
        licence=pairs.licence,
    )


def _items(pairs: PairSet, path: Path) -> Iterator[Item]:
    for row in range(len(pairs)):
        pair = pairs[row]
        texts = pair.texts.get(CAPTION) or pair.captions
        decode = {} if pair.offset is None else {"offset": pair.offset, "size": pair.size}
        if (box := _box(pairs, row)) is not None:
            if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
                raise DataError(f"{path}: {BOX} of {printable(pair.id)} is {list(box)}; give x0, y0, x1, y1 in pixels")
            decode["box"] = list(box)
        target = Pedestrian(identity=pair.id, texts=tuple(texts))
        yield Item(pair.id, Path(pair.source), decode, target, group=pair.id, split=pair.split)


def _box(pairs: PairSet, row: int) -> tuple[float, ...] | None:
    if BOX not in pairs.columns.numbers:
        return None
    values = tuple(pairs.numbers(row, BOX).tolist())
    return None if any(map(math.isnan, values)) else values


class _Loader:
    """Decodes a face: a file or a part of a shard, cut out by its box."""

    def __init__(self, max_pixels: int):
        self.max_pixels = max_pixels

    def __call__(self, item: Item) -> Decoded:
        return IMAGE.load(item.source, {"max_pixels": self.max_pixels, **item.decode})


FACE_CAPTIONS = SetFormat(
    "faces with captions (FaceCaption-15M's tables and shards)", ("person-search",), find, read, takes=("root",)
)

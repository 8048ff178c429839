"""The samples of one WebDataset shard as columns, made once and kept: later the file is only read where images lie."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import DataError
from ...runtime.files import write_cached
from ...runtime.reading import check_regular, parse_json, version_of
from ..images import IMAGE
from .columns import NumbersColumn, TextColumn, TextsColumn
from .pair_set import SPLIT_CODES, TEXT_FIELDS
from .record_fields import BrokenRow, RecordColumns, cleaned, texts_of
from .tar_members import Member, TarFile

LAYOUT = 2
"""Of the kept file; another number makes all indices anew."""
KEY = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")
IMAGE_EXTENSIONS = frozenset({*(suffix[1:] for suffix in IMAGE.suffixes), "img_content"})
TEXT_EXTENSIONS = ("txt", "caption")
LONGEST_TEXT = 1 << 20
TEXTS, NUMBERS = "texts:", "numbers:"
"""Before the names of columns."""
ABOUT = b"vladapt.shard"
"""In the metadata of the kept file: what was left out, and notes."""


@dataclass(frozen=True)
class ShardIndex:
    """N samples of a tar file.

    Args:
        samples: their columns: `key`, what the names of a sample's members share; `offset` and `size`, where the bytes
            of the image are; `captions`, one or more; `label`, the name of a class, or ""; `split`, a position in
            `SPLIT_NAMES`; `texts:NAME`, further texts by field, or by further column; `numbers:NAME`, those of a
            further column, none where a sample has none.
        skipped: (name, reason) of what was left out.
        notes: about the file.
    """

    samples: pa.Table
    skipped: list[tuple[str, str]]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: np.ndarray) -> ShardIndex:
        """Some samples, in their order; nothing of the others stays in memory."""
        return ShardIndex(self.samples.take(rows), [], self.notes)


def shard_index(path: Path, cache: Path, further: Mapping[str, str] | None = None) -> ShardIndex:
    """The index of a shard, from the cache, or made by walking through its headers.

    It is found by the shard's path and `version_of`; one that is damaged is made again.

    Args:
        further: keys of the samples' `.json` that are kept in addition to the usual ones -> "text" or "numbers".

    Raises:
        DataError: the shard cannot be read or is not a plain tar file, or the cache cannot be written.
    """
    check_regular(path)
    further = {name: kind for name, kind in sorted((further or {}).items()) if kind != "image"}
    identity = f"{LAYOUT}\n{os.path.abspath(path)}\n{version_of(path.stat())}"
    identity += f"\n{json.dumps(further)}" if further else ""
    kept = cache / "shards" / f"{hashlib.sha256(identity.encode(errors='surrogatepass')).hexdigest()}.parquet"
    index = _load(kept)
    if index is None:
        index = _walk(path, further)
        write_cached(kept, _packed(index))
    return index


def _walk(path: Path, further: Mapping[str, str]) -> ShardIndex:
    tar = TarFile(path)
    samples: dict[str, _Sample] = {}
    try:
        with path.open("rb") as file:
            for member in tar.members(file):
                _sort(member, file, samples, tar)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return _columns(path.name, samples, tar, further)


@dataclass
class _Sample:
    """Members of one key: where the image is, and the bytes of the texts."""

    image: tuple[int, int] | None = None
    contents: dict[str, bytes] = field(default_factory=dict)


def _sort(member: Member, file: BinaryIO, samples: dict[str, _Sample], tar: TarFile) -> None:
    """Put a member to its sample, whatever stands between the sample's members."""
    match = KEY.match(member.name)
    if match is None:
        return tar.skip(member.name, "has no extension, which says what it is")
    sample, extension = samples.setdefault(match.group(1), _Sample()), match.group(2).lower()
    if extension in IMAGE_EXTENSIONS:
        if sample.image is not None:
            return tar.skip(member.name, "a second image of its sample")
        sample.image = member.offset, member.size
    elif extension in (*TEXT_EXTENSIONS, "json", "cls"):
        if extension in sample.contents:
            return tar.skip(member.name, "comes twice")
        if member.size > LONGEST_TEXT:
            return tar.skip(member.name, f"a text of more than {LONGEST_TEXT} bytes")
        file.seek(member.offset)
        sample.contents[extension] = file.read(member.size)
    return None


def _columns(shard: str, samples: dict[str, _Sample], tar: TarFile, further: Mapping[str, str]) -> ShardIndex:
    columns = {name: kind() for name, kind in _kinds(further).items()}
    offsets, sizes, splits = array("q"), array("q"), bytearray()
    for key, sample in samples.items():
        try:
            size = None if sample.image is None else sample.image[1]
            record = texts_of_sample(size, sample.contents, f"{shard}:{key}", further)
            for name, values in record.numbers.items():
                if not (before := columns[NUMBERS + name]).fits(values):
                    raise BrokenRow(f"{name} has {len(values)} numbers, samples before it {before.width}")
        except BrokenRow as error:
            tar.skip(key, str(error))
            continue
        texts = {TEXTS + name: values for name, values in record.texts.items()}
        numbers = {NUMBERS + name: values for name, values in record.numbers.items()}
        row = {"key": key, "captions": record.captions, "label": record.label} | texts | numbers
        for name, value in row.items():
            columns[name].pad(len(splits))
            columns[name].add(value)
        offsets.append(sample.image[0])
        sizes.append(sample.image[1])
        splits.append(SPLIT_CODES[record.split])
    arrays = {name: column.build(len(splits)) for name, column in columns.items()}
    places = {"offset": np.frombuffer(offsets, np.int64), "size": np.frombuffer(sizes, np.int64)}
    table = pa.table({**arrays, **places, "split": np.frombuffer(splits, np.uint8)})
    return ShardIndex(table, tar.skipped, tar.notes)


def _kinds(further: Mapping[str, str]) -> dict[str, type[Any]]:
    """The columns of texts and numbers, and what they are grown by."""
    names = (*TEXT_FIELDS, *(name for name, kind in further.items() if kind == "text"))
    kinds: dict[str, type[Any]] = {"key": TextColumn, "captions": TextsColumn, "label": TextColumn}
    kinds |= {TEXTS + name: TextsColumn for name in names}
    return kinds | {NUMBERS + name: NumbersColumn for name, kind in further.items() if kind == "numbers"}


@dataclass(frozen=True)
class SampleTexts:
    """What is said about an image in a shard.

    Args:
        captions: one or more.
        texts: further texts by field, or by further column.
        numbers: further column -> its numbers.
        label: name of its class, or "".
        split: "train", "val", "test" or "".
    """

    captions: list[str]
    texts: dict[str, list[str]]
    numbers: dict[str, tuple[float, ...]]
    label: str
    split: str


def texts_of_sample(
    image_size: int | None, contents: Mapping[str, bytes], place: str, further: Mapping[str, str]
) -> SampleTexts:
    """What a sample's texts say: `.txt` first, then what its `.json` adds.

    Args:
        image_size: bytes of its image, or None.
        contents: extension -> bytes of the member.
        place: for messages.
        further: keys of the `.json` that are kept in addition to the usual ones -> what they hold.

    Raises:
        BrokenRow: it has no image, no caption, or a text that cannot be read.
        DataError: it names an unknown split.
    """
    if image_size is None:
        raise BrokenRow("no image")
    if image_size == 0:
        raise BrokenRow("empty image (0 bytes)")
    captions = [text for name in TEXT_EXTENSIONS if (text := cleaned(_decoded(contents, name)))]
    texts, numbers, split, label = {}, {}, "", cleaned(_decoded(contents, "cls"))
    if "json" in contents:
        record = _record(_decoded(contents, "json"))
        columns = RecordColumns(record, further=further)
        captions += [text for text in columns.texts(record, "caption") if text not in captions]
        texts, numbers = columns.further_texts(record), columns.further_numbers(record)
        label, split = label or columns.word(record, "label"), columns.split(record, place)
    if not captions:
        raise BrokenRow("no caption (.txt, or .json with a caption)")
    return SampleTexts(captions, texts, numbers, label, split)


def _decoded(contents: Mapping[str, bytes], name: str) -> str:
    try:
        return contents.get(name, b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenRow(f"its .{name} is not UTF-8 text") from error


def _record(text: str) -> dict:
    try:
        content = parse_json("its .json", text)
    except DataError as error:
        raise BrokenRow(str(error).replace(":", " is", 1)) from error
    return content if isinstance(content, dict) else {"captions": texts_of(content, "caption")}


# the kept file ----------------------------------------------------------------------------------------------------


def _packed(index: ShardIndex) -> bytes:
    about = json.dumps({"skipped": index.skipped, "notes": index.notes})
    buffer = io.BytesIO()
    pq.write_table(index.samples.replace_schema_metadata({ABOUT: about}), buffer, write_page_checksum=True)
    return buffer.getvalue()


def _load(path: Path) -> ShardIndex | None:
    """The index in a file, or None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            samples = file.read()
        about = json.loads(samples.schema.metadata[ABOUT])
        samples.validate(full=True)
        return ShardIndex(samples, [(str(name), str(reason)) for name, reason in about["skipped"]], about["notes"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None  # torn or damaged: it is made again from the shard

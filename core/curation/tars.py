"""What was kept as new tars in the layout of WebDataset: the members of a sample are copied byte by byte."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.pairs.pair_list import FILES, TARS, count_list, kind_of_source, list_rows
from ..data.pairs.record_fields import RecordColumns
from ..data.pairs.shard_index import TEXT_EXTENSIONS
from ..data.pairs.shard_list import SIZES
from ..data.pairs.shard_reader import members_of
from ..errors import ConfigError, DataError
from ..runtime.process import keeps
from ..runtime.remote import printed_name
from ..shards import ShardPlace
from ..shards.place import STATE
from ..shards.sources import ShardRow, parquet_source

SAMPLES = 10_000
"""Of a tar, about 1 GB of images of the web."""
MADE_OF = f"{STATE}/tars.json"


@dataclass(frozen=True)
class Tars:
    """What was written.

    Args:
        tars, samples: how many there are now.
        before: tars that were there already.
    """

    tars: int
    samples: int
    before: int


def write_tars(
    listed: str | Path,
    out: ShardPlace,
    samples: int = SAMPLES,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tars:
    """Write the pairs of a list as tars `00000.tar`, `00001.tar`, ..., with as many samples each, in the order of the
    list. A tar is there whole or not at all, so that the same call goes on where it was stopped.

    A sample of a tar keeps its names, its texts and all that stands beside them. An image of its own, or of a Parquet
    file, gets a number, its caption as `.txt`, and its id in a `.json`. Where an earlier sample has the same name, a
    number is put before it. Weights and captions by a model are not in tars: nothing is repeated.

    Args:
        listed: a list of `write_list`.
        out: the folder.
        samples: of each tar.
        part: (k, n): only the tars k, k + n, k + 2 n, ...
        progress: called as progress(tars done, tars in all).

    Raises:
        DataError: a source is missing, has changed, or is damaged. ConfigError: `out` holds tars of another list.
    """
    total = count_list(listed)
    count = -(-total // samples)
    out.remove_stale()
    _check_made_of(out, {"pairs": _pairs_of(listed), "samples": samples})
    sizes = {f"{number:05d}.tar": min(samples, total - number * samples) for number in range(count)}
    mine, before = list(enumerate(sizes))[part[0] :: part[1]], 0
    for done, (number, name) in enumerate(mine):
        progress(done, len(mine))
        if done:
            keeps("finished tars", out)
        if out.exists(name):
            before += 1
            continue
        first = number * samples
        with out.temporary() as partial:
            with out.reached(), tarfile.open(partial, "w") as archive:
                for info, content in _members(listed, first, first + sizes[name]):
                    archive.addfile(info, content)
            out.publish(partial, name)
    progress(len(mine), len(mine))
    if all(map(out.exists, sizes)):
        out.create(SIZES, json.dumps(sizes).encode())
    return Tars(len(mine), sum(sizes[name] for _, name in mine), before)


def _pairs_of(listed: str | Path) -> str:
    """Hash of what tars hold of a list."""
    import pyarrow.parquet as pq

    digest = hashlib.sha256()
    with pq.ParquetFile(listed) as file:  # sources as they are written there, so that both can be moved
        for batch in file.iter_batches(8192, columns=["id", "source", "key", "row", "caption"], use_threads=False):
            digest.update("".join(json.dumps(list(row.values())) for row in batch.to_pylist()).encode())
    return digest.hexdigest()


def _check_made_of(out: ShardPlace, made_of: dict[str, Any]) -> None:
    """Raise the ConfigError of a folder with tars of something else."""
    if out.create(MADE_OF, json.dumps(made_of).encode()):
        return
    before = json.loads(out.read(MADE_OF) or b"{}")
    if before == made_of:
        return
    if before.get("pairs") == made_of["pairs"]:
        fault = f"holds tars of {before['samples']:,} pairs each, and now it is {made_of['samples']:,}"
    else:
        fault = "holds tars of other pairs, as before a removal"
    raise ConfigError(f"--out {out}: {fault}; remove that folder, or give another --out")


def _members(listed: str | Path, first: int, last: int) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    """(header, content) of all members of a new tar."""
    owner: dict[str, tuple[int, str]] = {}  # key in the new tar -> number of the source, key there
    rows = ((number, row) for number, row in enumerate(list_rows(listed, first, last), first))
    for number, (source, some) in enumerate(groupby(rows, lambda each: _opened_together(each[1]))):
        if kind_of_source(source) == TARS:
            texts = {row["key"]: row["caption"] for _, row in some}
            for key, info, content in _with_texts(_samples(source, set(texts)), texts):
                if prefix := _prefix(owner, number, key):
                    info.name = prefix + info.name
                    info.pax_headers = {name: value for name, value in info.pax_headers.items() if name != "path"}
                yield info, content
            continue
        for place, sample in _of_files(source, list(some)):
            key = f"{place:09d}"
            yield from _new_members(_prefix(owner, number, key) + key, sample)


def _prefix(owner: dict[str, tuple[int, str]], number: int, key: str) -> str:
    """What is put before the key of a sample, so that no other sample of the tar has it."""
    prefix = ""
    while owner.setdefault(prefix + key, (number, key)) != (number, key):
        prefix += f"{number}/"
    return prefix


def _opened_together(row: dict[str, Any]) -> str:
    """A tar or a Parquet file; "" for images of their own, one after the other."""
    return "" if kind_of_source(row["source"]) == FILES else row["source"]


def _samples(source: str, keys: set[str]) -> Iterator[tuple[str, tarfile.TarInfo, Any]]:
    """Members of the samples that are wanted; what comes after the last of them is not read."""
    missing = set(keys)
    with closing(members_of(source)) as members:
        for key, info, content in members:
            if key in keys:
                missing.discard(key)
                yield key, info, content
            elif not missing:
                return
    if missing:
        raise DataError(
            f"{printed_name(source)}: {len(missing)} samples that are kept are not in it ({min(missing)}); it has "
            "changed since the decisions: restore it"
        )


def _with_texts(
    members: Iterator[tuple[str, tarfile.TarInfo, Any]], texts: Mapping[str, str | None]
) -> Iterator[tuple[str, tarfile.TarInfo, Any]]:
    """Members, those of a sample whose text curation has changed with that text; what it was stays beside it as
    `KEY.original.txt`, and in a `.json` under "original_" and the name that it had.

    Args:
        texts: key -> its text, None where that stays.
    """
    last = ""
    for key, info, content in members:
        if (text := texts.get(key)) is not None:
            folder, _, name = info.name.rpartition("/")
            stem, _, extension = name.partition(".")
            base = f"{folder}/{stem}" if folder else stem
            if key != last:
                yield key, _header(f"{base}.txt", text.encode()), io.BytesIO(text.encode())
            if extension in TEXT_EXTENSIONS:
                info.name = f"{base}.original.{extension}"
                info.pax_headers = {name: value for name, value in info.pax_headers.items() if name != "path"}
            elif extension == "json":
                record = _with_caption(content.read(), text)
                info.size, content = len(record), io.BytesIO(record)
        last = key
        yield key, info, content


def _with_caption(record: bytes, text: str) -> bytes:
    """A `.json` with another caption, if it has one; the one that it had stays under another name."""
    try:
        fields = json.loads(record)
        name = RecordColumns(fields).of.get("caption") if isinstance(fields, dict) else None
    except ValueError:
        return record
    if name is None:
        return record if isinstance(fields, dict) else json.dumps({"original_captions": fields}).encode()
    return json.dumps({**fields, name: text, f"original_{name}": fields[name]}).encode()


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info


def _of_files(source: str, rows: list[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, ShardRow]]:
    """(place in the list, sample) of images of their own, or of a Parquet file, with the texts of the list; its columns
    are the text that it had before, if curation changed it."""
    if not source:
        for place, row in rows:
            yield place, ShardRow(row["id"], row["source"], text=row["caption"])
        return
    listed = {row["row"]: (place, row["caption"]) for place, row in rows}
    first = min(listed)
    for number, sample in enumerate(parquet_source(source, "").read(first, max(listed) + 1), first):
        if number in listed:
            place, text = listed[number]
            original = {"original.txt": sample.text} if sample.text not in (None, text) else {}
            yield place, replace(sample, text=text, columns=original)


def _new_members(key: str, row: ShardRow) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    image = row.read()
    contents = {_extension(image): image}
    if row.text is not None:
        contents["txt"] = row.text.encode()
    contents |= {name: text.encode() for name, text in row.columns.items()}
    contents["json"] = json.dumps({"id": row.id}).encode()
    for extension, content in contents.items():
        yield _header(f"{key}.{extension}", content), io.BytesIO(content)


def _extension(image: bytes) -> str:
    try:
        with Image.open(io.BytesIO(image)) as opened:
            kind = str(opened.format).lower()
    except Exception:  # what it is, its reader will say
        return "img_content"
    return {"jpeg": "jpg", "tiff": "tif"}.get(kind, kind)

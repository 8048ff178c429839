"""Rows of shards as samples of a domain: images as they come, or listed by a domain that has files of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import Decoded, DomainData, Item
from ..contracts.task import Task
from ..data.images import LEAST_SIDE, decode_bytes
from ..data.unlabelled import images_of, readable
from ..errors import CapabilityError
from ..runtime.remote import is_url
from ..shards import Manifest, ShardPlace
from ..shards.manifest import written_listing
from ..shards.sources import ShardRow

OF_ITEMS = dict.fromkeys(("path", "id", "decode", "split", "groups", "version"), "string")
"""Columns of a list of samples -> type, besides labels."""
SHARD_LIKE = (".tar", ".parquet")


def domain_of(task: Task, data: DomainData | None = None) -> Domain:
    """The task's domain, as it is for some data."""
    assert task.domain is not None, "`task_of` gives a task of a domain"
    return task.domain if data is None else task.domain.of(data)


def is_read_by(domain: Domain, images: Sequence[str | Path]) -> bool:
    """Whether a domain reads these in its own way: it has files of its own, and they are no shards or URLs."""
    if type(domain).read_images is Domain.read_images:
        return False
    return not any(is_url(str(path)) or str(path).lower().endswith(SHARD_LIKE) for path in images)


def check_photographs(domain: Domain) -> None:
    """Raise the CapabilityError of `--fast-decode` for images that are no plain photographs."""
    if type(domain).read_images is not Domain.read_images or type(domain).transforms is not Domain.transforms:
        raise CapabilityError(
            f"--fast-decode: is for photographs, and domain '{domain.name}' reads images in its own way; omit it"
        )


def images_listed(domain: Domain, images: Sequence[str | Path], reading: Mapping[str, Any]) -> DomainData:
    """Samples as a domain reads them: in the driver, which lists them, and in each worker, which decodes them.

    Raises:
        DataError: nothing in them.
    """
    return readable(images_of(domain, images, reading))


def manifest_of_items(
    data: DomainData, place: ShardPlace, further: Mapping[str, Callable[[Item], str]] | None = None
) -> Manifest:
    """The samples of a domain, listed in a place.

    Args:
        further: column -> what it says of a sample.
    """
    columns = {**OF_ITEMS, **dict.fromkeys(further or {}, "string")}
    return Manifest(tuple(written_listing(place, _rows_of(data, further or {}), columns, "items")), tuple(data.skipped))


class RowReader:
    """What a worker reads rows with.

    Args:
        domain: of the images.
        reading: options of its reader.
        data: as the domain lists them; None where images are read as they come.
        least_side: that a decoder may reduce images to; None where it may not.
    """

    def __init__(
        self, domain: Domain, reading: Mapping[str, Any], data: DomainData | None, least_side: int | None = None
    ):
        self.data = data
        self._reduced = {} if least_side is None else {LEAST_SIDE: least_side}
        limit = vars(domain.reading_of(reading)).get("max_pixels", Item.MAX_PIXELS)
        self._decode = {"max_pixels": limit, **self._reduced}

    def load(self, row: ShardRow) -> Decoded:
        """Decode a row.

        Raises:
            DataError: it cannot be. SourceError: an object store does not answer.
        """
        if self.data is None:
            return decode_bytes(row.read(), row.id, self._decode)
        item = self.item(row)
        return self.data.load(item.with_(decode={**item.decode, **self._reduced}))

    def item(self, row: ShardRow) -> Item:
        """The sample of a row of a list."""
        return Item(row.id, Path(row.path), json.loads(row.columns["decode"]))

    def samples(self, rows: Sequence[ShardRow]) -> DomainData:
        """Rows as samples that are known by their ids: no file is read to know them."""
        by_id = {row.id: row for row in rows}
        own = [Item(row.id, Path(row.path)) if self.data is None else self.item(row) for row in rows]
        items = [item.with_(decode={"digest": item.id, **item.decode}) for item in own]

        def load(item: Item) -> Decoded:
            return self.load(by_id[item.id])

        data = DomainData([], (), load, name="images") if self.data is None else self.data
        return replace(data, items=items, skipped=[], load=load)


def _rows_of(data: DomainData, further: Mapping[str, Callable[[Item], str]]) -> Iterator[dict[str, Any]]:
    for item in data.items:
        row = {"path": str(item.source), "id": item.id, "decode": json.dumps(item.decode), "split": item.split}
        row |= {"groups": item.group or "", "version": _version_of(item.source)}
        yield row | {name: says(item) for name, says in further.items()}


def _version_of(path: Path | None) -> str:
    """Size and time of a file; "" of what is none."""
    try:
        status = os.stat(path or "")
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"

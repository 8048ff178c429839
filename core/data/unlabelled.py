"""Images without labels: files, and folders searched for files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item
from ..errors import DataError, printable
from .files import Format, ItemCollector, loader, walk, with_max_pixels
from .images import IMAGE


def read_unlabelled(paths: Sequence[str | Path], formats: Sequence[Format] = (IMAGE,)) -> DomainData:
    """Items without labels; `id` is the path as the user gave it.

    Args:
        paths: files, or folders that are searched at any depth. A file named twice counts once.
        formats: what counts as an image.

    Raises:
        DataError: a path does not exist, or none of them holds an image.
    """
    collector, seen = ItemCollector(), set()
    for given in map(Path, paths):
        if not os.path.exists(given):
            raise DataError(f"{given}: no such file or folder; check the path")
        below = ItemCollector()
        files = list(walk(given, given, below)) if given.is_dir() else [given]
        collector.skipped += [(printable(f"{given.as_posix()}/{name}"), reason) for name, reason in below.skipped]
        for file in files:
            known = Format.of(file, formats) is not None or file == given
            if known and file.resolve() not in seen:
                seen.add(file.resolve())
                collector.add_file(file, printable(file.as_posix()), formats)
    if not collector.items:
        known = " ".join(suffix for fmt in formats if not fmt.refused for suffix in fmt.suffixes)
        reasons = [f" ({name}: {reason})" for name, reason in collector.skipped[:1]] or [f"; known kinds: {known}"]
        raise DataError(f"{', '.join(map(str, paths))}: no readable image found{reasons[0]}")
    return DomainData(collector.items, (), loader(formats), name="images", skipped=collector.skipped)


def images_of(domain: Domain, paths: Sequence[str | Path], options: Mapping[str, Any]) -> DomainData:
    """Unlabelled images as a domain reads them.

    Args:
        options: of the domain's reader.

    Raises:
        DataError: a path does not exist, or none of them holds an image.
    """
    data = domain.read_images(list(paths), **options)
    if data is not None:
        return data
    limit = vars(domain.reading_of(options)).get("max_pixels", Item.MAX_PIXELS)
    return read_unlabelled(paths, with_max_pixels((IMAGE,), limit))


def readable(data: DomainData, decode: bool = False) -> DomainData:
    """The set, if there is anything in it.

    Args:
        decode: whether all are decoded, and only the `decodable` are kept; else what cannot be is found later.

    Raises:
        DataError: nothing in it.
    """
    data = decodable(data) if decode else data
    if not data.items:
        why = f"; {data.skipped[0][0]}: {data.skipped[0][1]}" if data.skipped else ""
        raise DataError(f"no readable image among what was given{why}")
    return data


def decodable(data: DomainData) -> DomainData:
    """The images that can be decoded; the others are listed in `skipped`."""

    def reason(item: Item) -> str:
        try:
            data.load(item)
        except DataError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        reasons = list(threads.map(reason, data.items))
    kept = data.with_items([item for item, why in zip(data.items, reasons) if not why])
    kept.skipped = [*data.skipped, *((item.id, why) for item, why in zip(data.items, reasons) if why)]
    return kept

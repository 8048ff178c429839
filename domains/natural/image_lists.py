"""Published selections of images: JSON lines of a path and a label, one image a line, met image for image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...core.contracts.domain import DomainData, Item
from ...core.data.tables import read_table
from ...core.errors import DataError, shortened
from ...core.runtime.reading import parse_json, text_lines

PATHS = ("impath", "path", "image", "image_path", "file", "filename", "file_name")
SHOWN = 3
TEST = "test"


def with_lists(data: DomainData, lists: dict[str, str | None]) -> DomainData:
    """The set whose train or val split are the images of a list and no others.

    An image is found by its path, or by as much of its end as tells it from all others: lists hold paths of the
    machine that they were made on. An image that stands in a list and in another split of the set is taken from there,
    but never from test. Of a set without splits all other images are for testing.

    Args:
        data: with the splits of the set.
        lists: "train" or "val" -> file, or None for the set's own split.

    Raises:
        DataError: a list cannot be read, is empty, names images that the set lacks or that are for testing, or two
            lists share one.
    """
    chosen: dict[int, str] = {}
    for split, file in lists.items():
        if file is None:
            continue
        for place in _places(data.items, Path(file)):
            if data.items[place].split == TEST:
                raise DataError(f"{file}: '{data.items[place].id}' is a test image of the set; take it from the list")
            if chosen.setdefault(place, split) != split:
                raise DataError(f"{file}: '{data.items[place].id}' stands in both lists; take it from one")
    listed = {split for split, file in lists.items() if file is not None}
    kept = [
        replace(item, split=chosen.get(place, item.split or (TEST if listed else "")))
        for place, item in enumerate(data.items)
        if place in chosen or item.split not in listed
    ]
    return data.with_items(kept)


def _places(items: Sequence[Item], file: Path) -> Iterator[int]:
    """Where the images of a list stand in the set, each once."""
    by_tail: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        by_tail[PurePosixPath(item.id).parts[-1:]].append(place)
    paths = list(dict.fromkeys(_paths(file)))
    if not paths:
        raise DataError(f"{file}: names no image; give JSON lines of path and label")
    found = {path: _place(items, by_tail, path) for path in paths}
    lacking = [path for path, place in found.items() if place is None]
    if lacking:
        listed = ", ".join(shortened(path) for path in lacking[:SHOWN])
        raise DataError(
            f"{file}: {len(lacking)} of its {len(paths)} images are not in the set, or not told apart there "
            f"({listed}); is it a list of another set?"
        )
    yield from dict.fromkeys(place for place in found.values() if place is not None)


def _place(items: Sequence[Item], by_tail: dict[tuple[str, ...], list[int]], path: str) -> int | None:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    places = by_tail.get(parts[-1:], [])
    length = 2
    places = [place for place in places if _same_end(PurePosixPath(items[place].id).parts, parts, length)]
    while len(places) > 1 and length < len(parts):
        length += 1
        longer = [place for place in places if PurePosixPath(items[place].id).parts[-length:] == parts[-length:]]
        if not longer:
            exact = [place for place in places if len(PurePosixPath(items[place].id).parts) < length]
            return exact[0] if len(exact) == 1 else None
        places = longer
    return places[0] if len(places) == 1 else None


def _same_end(one: tuple[str, ...], other: tuple[str, ...], most: int) -> bool:
    """Whether two paths end alike, in so many parts or in all that the shorter has: a file's name alone is no proof."""
    length = min(most, len(one), len(other))
    return one[-length:] == other[-length:]


def _paths(file: Path) -> Iterator[str]:
    """Paths of a list: objects with a path, or [path, label, ...]."""
    if _first(file).startswith("["):
        for number, line in enumerate(text_lines(file), start=1):
            if line.strip():
                values = parse_json(f"{file} line {number}", line)
                if not isinstance(values, list) or not values or not isinstance(values[0], str):
                    raise DataError(f"{file} line {number}: is not [path, label]; correct it")
                yield values[0]
        return
    table = read_table(file)
    column = table.column_of(PATHS)
    if column is None:
        raise DataError(f"{file}: has no path in its lines; call it {', '.join(PATHS[:3])}")
    for row in table.rows:
        if text := row.text(column):
            yield text


def _first(file: Path) -> str:
    return next((line.strip() for line in text_lines(file) if line.strip()), "")

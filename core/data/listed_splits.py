"""Published selections of samples, met one by one: by default JSON lines of a path and a label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..contracts.items import DomainData
from ..errors import DataError, shortened
from ..runtime.reading import parse_json, text_lines
from .tables import read_table

PATHS = ("impath", "path", "image", "image_path", "file", "filename", "file_name")
SHOWN = 3
TEST = "test"


def with_lists(
    data: DomainData,
    lists: dict[str, str | None],
    read: Callable[[Path], Iterable[str]] | None = None,
    spelled: Callable[[str], str] = str,
) -> DomainData:
    """The set whose train or val split are the samples of a list and no others.

    A sample is found by its path, or by as much of its end as tells it from all others: lists hold paths of the
    machine that they were made on. A sample that stands in a list and in another split of the set is taken from there,
    but never from test. Of a set without splits all other samples are for testing. What is listed for training is
    learned from whole: no val is taken from it.

    Args:
        data: with the splits of the set.
        lists: "train" or "val" -> file, or None for the set's own split.
        read: file -> the paths in it; by default of JSON lines.
        spelled: how ids of the set and paths of a list are written where they are compared.

    Raises:
        DataError: a list cannot be read, is empty, names samples that the set lacks or that are for testing, or two
            lists share one.
    """
    chosen: dict[int, str] = {}
    known = [PurePosixPath(spelled(item.id)).parts for item in data.items]
    for split, file in lists.items():
        if file is None:
            continue
        paths = [spelled(path) for path in (read or _paths)(Path(file))]
        for place in _places(known, list(dict.fromkeys(paths)), file):
            if data.items[place].split == TEST:
                raise DataError(f"{file}: '{data.items[place].id}' is a test image of the set; remove it from the list")
            if chosen.setdefault(place, split) != split:
                raise DataError(f"{file}: '{data.items[place].id}' is in both lists; remove it from one")
    listed = {split for split, file in lists.items() if file is not None}
    kept = [
        replace(item, split=chosen.get(place, item.split or (TEST if listed else "")))
        for place, item in enumerate(data.items)
        if place in chosen or item.split not in listed
    ]
    return replace(data.with_items(kept), whole_train=data.whole_train or "train" in listed)


def _places(known: Sequence[tuple[str, ...]], paths: Sequence[str], file: str) -> Iterator[int]:
    """Where the samples of a list stand in the set, each once.

    Args:
        known: the parts of each sample's path in the set.
    """
    by_tail: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, parts in enumerate(known):
        by_tail[parts[-1:]].append(place)
    if not paths:
        raise DataError(f"{file}: names no samples; give a path and a label per line")
    found = {path: _place(known, by_tail, path) for path in paths}
    lacking = [path for path, place in found.items() if place is None]
    if lacking:
        listed = ", ".join(shortened(path) for path in lacking[:SHOWN])
        raise DataError(
            f"{file}: {len(lacking)} of its {len(paths)} samples are not in the set, or match several there "
            f"({listed}); give a list of this set"
        )
    yield from dict.fromkeys(place for place in found.values() if place is not None)


def _place(known: Sequence[tuple[str, ...]], by_tail: dict[tuple[str, ...], list[int]], path: str) -> int | None:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    places, length = by_tail.get(parts[-1:], []), 2
    places = [place for place in places if _same_end(known[place], parts, length)]
    while len(places) > 1 and length < len(parts):
        length += 1
        longer = [place for place in places if known[place][-length:] == parts[-length:]]
        if not longer:
            exact = [place for place in places if len(known[place]) < length]
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

"""Several dates of one place as one sample, whose parts they are, in the order of dates.

Which pictures are of one place, and when each was taken, say the columns of the table that lists them (place, date),
else the names of files: p1_20200601.tif and p1_20210601.tif in one folder are two dates of one place.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, DomainData, Item
from ...core.data import Format
from ...core.errors import DataError, shortened
from .pictures import is_raster
from .places import files_of_item
from .rasters import header_of
from .scene_sets import bare_name

PLACES, DATES = ("place", "placeid", "location", "site", "tile", "patch"), ("date", "datetime", "acquired", "time")
"""Columns of a table, as `plain` has them."""
DATE_IN_NAME = re.compile(
    r"(?<!\d)((?:19|20)\d{2})[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?:T\d{4,6}Z?)?(?!\d)"
)
SERIES = "dates"
"""Key of `Item.decode`: of each date its file beside the first, its day, and what else `decode` says of it."""
OF_FILES = ("files", "digest")


def with_time_series(data: DomainData, formats: Sequence[Format]) -> DomainData:
    """The set with a sample per place, of as many parts as it has dates.

    Raises:
        DataError: a picture has no place or no date, or two of one place have the same date, other classes, other
            splits, or other grids.
    """
    dated = _of_table(data) or [_of_name(item) for item in data.items]
    places: dict[str, list[tuple[str, Item]]] = defaultdict(list)
    for item, (place, date) in zip(data.items, dated):
        places[place].append((date, item))
    series = [_series(place, sorted(some, key=lambda pair: pair[0]), formats) for place, some in places.items()]
    counts = [len(item.decode[SERIES]) for item in series]
    spread = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    note = f"Pictures of one place at several dates are one sample: {len(series)} places of {spread} dates."
    return replace(data, items=series, load=DatesLoader(data.load), notes=[*data.notes, note])


def part_dates(item: Item) -> list[str]:
    """The days of a sample's parts; none of a picture of one date."""
    return [each["date"] for each in item.decode.get(SERIES, ())]


@dataclass(frozen=True)
class DatesLoader:
    """Decodes all dates of a sample: (T, H, W, C).

    Args:
        load: decodes one.
    """

    load: Callable[[Item], Decoded]

    def __call__(self, item: Item) -> Decoded:
        if SERIES not in item.decode:
            return self.load(item)
        pictures = [self.load(each) for each in items_of_dates(item)]
        pictures = [picture if picture.ndim == 4 else picture[None] for picture in pictures]  # composites of a date
        if len({picture.dtype for picture in pictures}) > 1:
            pictures = [p.astype(np.float32) / 255 if p.dtype == np.uint8 else p for p in pictures]
        return np.concatenate(pictures)


def items_of_dates(item: Item) -> list[Item]:
    """A sample's pictures, one by one."""
    shared = {key: value for key, value in item.decode.items() if key not in (SERIES, *OF_FILES)}
    return [
        item.with_(source=item.source.parent / each["file"], decode={**shared, **each["decode"]})
        for each in item.decode[SERIES]
    ]


def _of_table(data: DomainData) -> list[tuple[str, str]]:
    """Place and date of each item by the columns of its table; none where the table has no such columns."""
    columns = None if data.columns is None else data.columns()
    if columns is None:
        return []
    named = {bare_name(name): name for name in columns.names}
    place, date = (next((named[name] for name in names if name in named), None) for names in (PLACES, DATES))
    if place is None or date is None:
        return []
    places, days = columns.cells(place), columns.cells(date)
    return [_of_cells(places.get(i.id, ""), days.get(i.id, ""), f"{columns.place}: {i.id}") for i in data.items]


def _of_cells(place: str, date: str, where: str) -> tuple[str, str]:
    if not place.strip():
        raise DataError(f"{where} has no place; fill in the column, or omit --time-series")
    text = date.strip()
    if match := DATE_IN_NAME.fullmatch(text):
        text = "-".join(match.groups()[:3])
    try:
        if not text[:1].isdigit():  # numpy takes "", "NaT" and "today" for dates
            raise ValueError
        return place.strip(), str(np.datetime64(text))
    except ValueError:
        raise DataError(f"{where} has the date '{shortened(text)}'; write dates as 2024-05-31") from None


def _of_name(item: Item) -> tuple[str, str]:
    path = Path(item.id)
    match = DATE_IN_NAME.search(path.stem)
    if match is None:
        raise DataError(
            f"{item.source}: has no date in its name (place_20240531.tif), and no table with columns place and date "
            "lists it; add dates, or omit --time-series"
        )
    rest = [part.strip("-_. ") for part in (path.stem[: match.start()], path.stem[match.end() :])]
    name = "_".join(filter(None, rest)) or path.parent.name or "place"
    return str(path.with_name(name)), "-".join(match.groups())


def _series(place: str, dated: Sequence[tuple[str, Item]], formats: Sequence[Format]) -> Item:
    """One sample of the pictures of a place."""
    (_, first), *others = dated
    for (date, item), (next_date, next_item) in zip(dated, others):
        if date == next_date:
            raise DataError(f"{next_item.source}: of the same place and date as {item.source.name}; remove one")
    for _, item in others:
        for what, one, other in (
            ("class", first.target, item.target),
            ("split", first.split, item.split),
            ("grid", _grid(first, formats), _grid(item, formats)),
        ):
            if one != other:
                raise DataError(
                    f"{item.source}: its {what} differs from that of {first.source.name}, another date of the place "
                    f"{shortened(place)}; make it the same for all dates of a place"
                )
    from ...core.data import FileHashes

    hashes = FileHashes()
    files = [file for _, item in dated for file in files_of_item(item)]
    digest = hashlib.sha256("".join(hashes.sha256(file) for file in files).encode()).hexdigest()
    dates = [_as_data(item, date, first.source.parent) for date, item in dated]
    return first.with_(id=place, decode={**first.decode, SERIES: dates, "digest": digest})


def _as_data(item: Item, date: str, folder: Path) -> dict[str, Any]:
    own = {key: item.decode[key] for key in OF_FILES if key in item.decode}
    file = item.source.relative_to(folder) if item.source.is_relative_to(folder) else item.source.absolute()
    return {"file": file.as_posix(), "date": date, "decode": own}


def _grid(item: Item, formats: Sequence[Format]) -> Any:
    """What must be the same for pictures to lie on each other: of a raster its grid and CRS, of an image its size."""
    if is_raster(item.source):
        header = header_of(files_of_item(item), item.decode.get("sensor"))
        return header.crs, header.grid
    fmt = Format.of(item.source, formats)
    return None if fmt is None else tuple(fmt.size_of(item.source, dict(item.decode)))

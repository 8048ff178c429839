"""Published splits that lie beside the images of a scene set: lists of file names, one file per split.

As torchgeo spreads them ("eurosat-train.txt", "eurosat-val.txt", "eurosat-test.txt"), and as EuroSAT's own archive has
them (train.csv, validation.csv, test.csv with a column Filename).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ...core.contracts import DomainData
from ...core.data import Layout, read_table, visible
from ...core.errors import DataError, shortened
from ...core.runtime import text_lines

SPLIT_IN_NAME = re.compile(r"(?:^|[-_. ])(train|training|val|valid|validation|test|testing)$", re.IGNORECASE)
COLUMNS = ("filename", "file_name", "image", "path", "file")


def with_split_lists(data: DomainData, folder: Path) -> DomainData:
    """The set with the splits of the lists in its folder; as it is where there are none, or it has splits already.

    Raises:
        DataError: a list cannot be read, names none of the images, or two lists share one.
    """
    lists = _lists(folder)
    if "test" not in lists.values() or "train" not in lists.values() or any(item.split for item in data.items):
        return data
    split_of = _splits(data, lists)
    absent = sum(item.id not in split_of for item in data.items)
    names = ", ".join(sorted(file.name for file in lists))
    data.notes.append(f"Splits are the published ones, from {names}.")
    if absent:
        data.notes.append(f"Images that no list names, left out: {absent}.")
    return data.with_items([i.with_(split=split_of[i.id]) for i in data.items if i.id in split_of])


def _lists(folder: Path) -> dict[Path, str]:
    """File -> the split that its name says."""
    if not folder.is_dir():
        return {}
    files = sorted(Path(entry.path) for entry in visible(folder) if entry.is_file())
    found = ((file, SPLIT_IN_NAME.search(file.stem)) for file in files if file.suffix.lower() in (".txt", ".csv"))
    return {file: Layout.SPLITS[match.group(1).lower()] for file, match in found if match}


def _splits(data: DomainData, lists: dict[Path, str]) -> dict[str, str]:
    """Item id -> split."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for item in data.items:
        by_name[PurePosixPath(item.id).stem].append(item.id)
    split_of: dict[str, str] = {}
    for file, split in lists.items():
        named = [id_ for name in _names(file) for id_ in _meant(name, by_name)]
        if not named:
            raise DataError(f"{file}: names none of the images beside it; remove it if it belongs to another set")
        for id_ in named:
            if split_of.setdefault(id_, split) != split:
                raise DataError(f"{file}: '{shortened(id_)}' is in the list of {split_of[id_]} too; remove it from one")
    return split_of


def _meant(name: str, by_name: dict[str, list[str]]) -> list[str]:
    """Ids of the images that a line may mean: of that file name and, where the line has one, of that folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    ids = by_name.get(path.stem, [])
    exact = [id_ for id_ in ids if len(path.parts) > 1 and PurePosixPath(id_).parts[-2:-1] == path.parts[-2:-1]]
    return exact or (ids if len(ids) == 1 else [])


def _names(file: Path) -> Iterator[str]:
    if file.suffix.lower() == ".txt":
        yield from (line.split(",")[0].strip() for line in text_lines(file) if line.strip())
        return
    table = read_table(file)
    if (column := table.column_of(COLUMNS)) is None:
        raise DataError(f"{file}: no column of file names ({', '.join(COLUMNS[:3])}); add one, or remove the file")
    yield from (row.text(column) for row in table.rows if row.text(column))

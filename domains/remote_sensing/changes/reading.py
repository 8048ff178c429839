"""Sets of pairs of dates: a table, folders A, B and label (LEVIR-CD), cities (OSCD), or two large rasters of one grid.

LEVIR-CD: "A Spatial-Temporal Attention-Based Method and a New Dataset for Remote Sensing Image Change Detection"
(2020, Remote Sensing 12, 1662). OSCD: "Urban Change Detection for Multispectral Earth Observation Using Convolutional
Neural Networks" (2018, arXiv 1810.08468).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....core.contracts import DomainData, Item
from ....core.data import Table, locate, read_table
from ....core.errors import DataError
from ....core.runtime import read_text
from ..band_statistics import with_stretch
from ..pictures import is_raster
from ..places import files_of_item, with_blocks
from ..rasters import header_of
from ..stacks import raster_of_folder
from ..windows import Cutting, grids_of
from .masks import check_mask, classes_in, load_change, with_mask_values
from .pairs import DatePair, check_dates, date_of, dates_of, load_pair, pair_window, tile_boxes
from .target import CLASS_NAMES, ChangeMask

KIND = "changes"
BEFORE = ("before", "a", "image1", "image_1", "t1", "pre", "date1", "im1", "first")
AFTER = ("after", "b", "image2", "image_2", "t2", "post", "date2", "im2", "second")
MASK = ("mask", "label", "labels", "masks", "change", "changes", "cm", "gt", "out")
PLACE = ("place", "group", "city", "region", "site", "area", "location", "scene")
"""Usual names of columns, and of folders, in lower case."""
LISTS = ("list", "lists", ".")
"""Folders of files that list a split, one name a line: train.txt."""
OSCD_DATES, OSCD_MASKS = ("imgs_1_rect", "imgs_2_rect"), "cm"
OSCD_VALUES = (1, 2)
"""No change and change in OSCD's GeoTIFFs."""
WANTED = (
    "give a table with the columns before, after and mask, a folder with A, B and label, OSCD's folders, or a raster "
    "with --after and --labels"
)


def read_changes(path: Path, reading: Any) -> DomainData:
    """Labelled pairs, cut into tiles that cover them once.

    Args:
        path: a table, a folder, or a raster with `reading.after` and `reading.labels`.
        reading: options of the reader.

    Raises:
        DataError: nothing there that is a set of pairs, dates or masks of other places, grids or sizes, a date that is
            missing, or a mask of more than two classes.
    """
    pairs, notes = with_mask_values(_labelled(path, reading))
    for pair in pairs:
        check_mask(pair)
    wholes, of_blocks = _placed(path, pairs, reading)
    size, tiles = reading.cutting.size, []
    for pair, item, boxes in wholes:
        for box, block in boxes:
            tile = item if box == (0, 0, *pair.size[::-1]) else pair_window(item, box)
            tile = tile.with_(target=ChangeMask(pair.mask_file, pair.values), group=block)
            of_tile = load_change(tile)
            if classes := classes_in(of_tile):
                tiles.append(tile.with_(target=replace(tile.target, shown=classes)))
    cut = sum(len(boxes) > 1 for _, _, boxes in wholes)
    if cut:
        notes.append(f"Pairs larger than {size} pixels, cut into tiles (--window-size): {cut}.")
    data = DomainData(tiles, CLASS_NAMES, load_pair, KIND, path.resolve().stem, notes=notes, load_mask=load_change)
    if of_blocks:
        data = replace(data, blocks=of_blocks, notes=[*data.notes, f"Splits are by place: {of_blocks} (--block-size)."])
    return replace(data, reading={"window_size": size})


def read_new(paths: Sequence[Path], reading: Any) -> DomainData:
    """Pairs without masks: BEFORE and AFTER, a table, or a folder with A and B; each whole.

    Raises:
        DataError: as for `read_changes`.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; check the path")
    if len(paths) == 2 and all(_is_date(path) for path in paths):
        pairs = [_pair(paths[0].name, paths[0], paths[1], reading)]
    elif len(paths) == 1 and not _is_date(paths[0]):
        pairs = _pairs_at(paths[0], reading, labelled=False)
    else:
        raise DataError(f"{paths[0]}: changes are found between two dates; give BEFORE AFTER, a table, or a folder")
    items = [pair.item.with_(target=None, split="") for pair in pairs]
    return DomainData(items, (), load_pair, KIND, "pairs")


def _labelled(path: Path, reading: Any) -> list[DatePair]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; {WANTED}")
    if path.is_file() and is_raster(path):
        if not reading.after or not reading.labels:
            lacking = "--after, the raster of the second date" if not reading.after else "--labels, where it changed"
            raise DataError(f"{path}: a raster alone is no pair of dates; give {lacking}")
        after, mask = (_beside(path, Path(name)) for name in (reading.after, reading.labels))
        return [replace(_pair(path.stem, path, after, reading), mask=mask)]
    if reading.after:
        raise DataError(f"{path}: --after is for a raster of the first date; omit it")
    return _pairs_at(path, reading, labelled=True)


def _pairs_at(path: Path, reading: Any, labelled: bool) -> list[DatePair]:
    """Pairs of a table or a folder."""
    if path.is_file():
        return _of_table(path, reading, labelled)
    cities = sorted({folder.parent for folder in path.glob(f"**/{OSCD_DATES[0]}") if folder.is_dir()})
    return _of_cities(path, cities, reading, labelled) if cities else _of_folders(path, reading, labelled)


def _pair(name: str, before: Path, after: Path, reading: Any) -> DatePair:
    pair = DatePair(name, *(date_of(each, reading.formats) for each in (before, after)))
    check_dates(pair.before, pair.after)
    return pair


def _of_table(path: Path, reading: Any, labelled: bool) -> list[DatePair]:
    if path.suffix.lower() not in Table.SUFFIXES:
        raise DataError(f"{path}: not a table of pairs; {WANTED}")
    table = read_table(path)
    columns = {name: table.column_of(usual) for name, usual in (("before", BEFORE), ("after", AFTER), ("mask", MASK))}
    for name in ("before", "after", *(("mask",) if labelled else ())):
        if columns[name] is None:
            raise DataError(f"{path}: has no column '{name}'; it has: {', '.join(table.columns)}")
    place = _place_column(table, reading.group_column)
    split = table.column_of(Table.SPLIT)
    root, pairs = Path(reading.root) if reading.root else path.parent, []
    for row in table.rows:
        files = {name: _file_of(row, columns[name], root, reading) for name in columns if labelled or name != "mask"}
        pair = _pair(row.text(columns["before"]), files["before"], files["after"], reading)
        named = row.text(split).lower() if split else ""
        if named and named not in Item.SPLITS:
            raise DataError(f"{row.place}: split '{named}'; give {', '.join(Item.SPLITS)}, or nothing")
        group = row.text(place) if place else None
        pairs.append(replace(pair, mask=files.get("mask"), split=named, group=group or None))
    return _told_apart(pairs)


def _place_column(table: Table, asked: str) -> str | None:
    if asked not in ("auto", "none"):
        return table.column_named(asked, "group_column")
    return table.column_of(PLACE) if asked == "auto" else None


def _file_of(row: Any, column: str | None, root: Path, reading: Any) -> Path:
    name = row.text(column)
    if not name:
        raise DataError(f"{row.place}: no file in column '{column}'; name both dates of each pair, and its mask")
    file = locate(name, [root], row.place, reading.formats)
    if file is None:
        raise DataError(f"{row.place}: there is no file {name} below {root} (column '{column}'); correct the path")
    return file


def _of_folders(path: Path, reading: Any, labelled: bool) -> list[DatePair]:
    """LEVIR-CD's layout, below folders of splits or beside lists of them."""
    pairs: list[DatePair] = []
    for split in ("", *Item.SPLITS):
        folders = _folders_of(path / split)
        if "before" not in folders and "after" not in folders:
            continue
        for name in ("before", "after", *(("mask",) if labelled else ())):
            if name not in folders:
                usual = {"before": "A", "after": "B", "mask": "label"}[name]
                raise DataError(f"{path / split}: has no folder {usual}; {WANTED}")
        by_stem = {name: _by_stem(folder) for name, folder in folders.items()}
        listed = _listed(path) if not split else {}
        for stem, before in by_stem["before"].items():
            if listed and stem not in listed:
                continue
            for name in by_stem:
                if stem not in by_stem[name] and (labelled or name != "mask"):
                    what = "mask" if name == "mask" else "second date"
                    raise DataError(f"{before}: has no {what} in {folders[name]}; add {stem} there, or remove it here")
            pair = _pair(f"{split}/{before.name}" if split else before.name, before, by_stem["after"][stem], reading)
            mask = by_stem["mask"][stem] if labelled else None
            pairs.append(replace(pair, mask=mask, split=split or listed.get(stem, "")))
        if alone := sorted(set(by_stem["after"]) - set(by_stem["before"])):
            raise DataError(
                f"{by_stem['after'][alone[0]]}: has no first date in {folders['before']}; add {alone[0]} there, or "
                "remove it here"
            )
    if not pairs:
        raise DataError(f"{path}: holds no pairs of dates; {WANTED}")
    return pairs


def _folders_of(path: Path) -> dict[str, Path]:
    """ "before", "after" and "mask" -> the folder of it."""
    below = {folder.name.lower(): folder for folder in path.iterdir() if folder.is_dir()} if path.is_dir() else {}
    usual = {"before": BEFORE, "after": AFTER, "mask": MASK}
    named = {what: next((below[name] for name in names if name in below), None) for what, names in usual.items()}
    return {what: folder for what, folder in named.items() if folder is not None}


def _by_stem(folder: Path) -> dict[str, Path]:
    """Files by name without suffix, and folders of bands by the file that stands for them."""
    files: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        file = raster_of_folder(entry) if entry.is_dir() else entry
        if file is not None:
            files[entry.name if entry.is_dir() else entry.stem] = file
    return files


def _listed(path: Path) -> dict[str, str]:
    """Stem of a pair -> its split, as lists beside the folders say; {} where there are none."""
    splits: dict[str, str] = {}
    for split in Item.SPLITS:
        lists = [path / folder / f"{split}.txt" for folder in LISTS]
        for file in (each for each in lists if each.is_file()):
            splits |= {Path(name).stem: split for name in _names_in(file)}
    return splits


def _names_in(file: Path) -> list[str]:
    """Names, one a line or separated by commas, as OSCD has them."""
    return [name.strip() for name in read_text(file).replace(",", "\n").split("\n") if name.strip()]


def _of_cities(path: Path, cities: Sequence[Path], reading: Any, labelled: bool) -> list[DatePair]:
    """OSCD: a folder of bands for each date; masks of a city lie below it, or below a folder of its name elsewhere."""
    listed = {
        name: file.stem
        for file in sorted(path.glob("**/*.txt"))
        if file.stem in Item.SPLITS
        for name in _names_in(file)
    }
    masks = {folder.parent.name: folder for folder in sorted(path.glob(f"**/{OSCD_MASKS}")) if folder.is_dir()}
    pairs = []
    for city in cities:
        dates: list[Path] = []
        for folder in (city / date for date in OSCD_DATES):
            file = raster_of_folder(folder) if folder.is_dir() else None
            if file is None:
                raise DataError(f"{city}: has no bands in {folder.name}; get the city again, or remove it")
            dates.append(file)
        if labelled and city.name not in masks:
            continue  # cities whose labels were not published with the images
        pair = replace(_pair(city.name, dates[0], dates[1], reading), group=city.name, split=listed.get(city.name, ""))
        if labelled:
            mask = _oscd_mask(masks[city.name])
            pair = replace(pair, mask=mask, values=OSCD_VALUES if is_raster(mask) else ())
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path}: no city has a mask in CITY/cm; get the labels of the set, too")
    return pairs


def _oscd_mask(folder: Path) -> Path:
    files = sorted(folder.glob("*cm.tif")) + sorted(folder.glob("*cm.png"))
    if not files:
        raise DataError(f"{folder}: has neither CITY-cm.tif nor cm.png; get the labels of the set again")
    return files[0]


def _placed(path: Path, pairs: Sequence[DatePair], reading: Any) -> tuple[list[tuple[DatePair, Item, list]], str]:
    """Each pair as an item, with its tiles as (box, group); and what blocks of land are called, "" for none."""
    cutting: Cutting = reading.cutting
    large = len(pairs) == 1 and is_raster(pairs[0].before.source)
    if large and not pairs[0].split:
        pair = pairs[0]
        header = header_of(files_of_item(pair.before), pair.before.decode.get("sensor"))
        ((_, blocks),), words = grids_of(path, [header], replace(cutting, overlap=0.0))
        tiles = [
            (tile, block.name if words else None)
            for block in dict.fromkeys(blocks)
            for tile in tile_boxes(block.box, cutting.size)
        ]
        return [(pair, pair.item, tiles)], words
    data = with_blocks(DomainData([pair.item for pair in pairs], (), load_pair, name=path.name), reading.block_size)
    whole = []
    for pair, item in zip(pairs, data.items):
        height, width = pair.size
        boxes = tile_boxes((0, 0, width, height), cutting.size)
        whole.append((pair, item, [(box, item.group or pair.name) for box in boxes]))
    return whole, data.blocks


def stretched_pairs(data: DomainData, stretch: Any) -> DomainData:
    """Both dates of more than 8 bits stretched from the same ranges, those of the training."""
    both = [date.with_(id=f"{item.id} {n}") for item in data.items for n, date in enumerate(dates_of(item))]
    ranges = with_stretch(replace(data, items=both, notes=[]), stretch)
    if ranges.notes == []:
        return data
    items = []
    for item, before, after in zip(data.items, ranges.items[::2], ranges.items[1::2]):
        of_after = {**item.decode["after_decode"], **_ranges(after)}
        items.append(item.with_(decode={**item.decode, **_ranges(before), "after_decode": of_after}))
    reading = {**data.reading, **ranges.reading}
    return replace(data, items=items, notes=[*data.notes, *ranges.notes], reading=reading)


def _ranges(item: Item) -> dict[str, Any]:
    return {"stretch": item.decode["stretch"]} if "stretch" in item.decode else {}


def _told_apart(pairs: Sequence[DatePair]) -> list[DatePair]:
    """Pairs whose first dates have the same name, by a number."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.name] = counts.get(pair.name, 0) + 1
    seen: dict[str, int] = {}
    named = []
    for pair in pairs:
        seen[pair.name] = seen.get(pair.name, 0) + 1
        named.append(replace(pair, name=f"{pair.name} {seen[pair.name]}") if counts[pair.name] > 1 else pair)
    return named


def _is_date(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in Table.SUFFIXES


def _beside(path: Path, other: Path) -> Path:
    """A path of the working directory, or of the folder of the data."""
    beside = path.parent / other
    chosen = other if other.exists() or not beside.exists() else beside
    if not chosen.is_file():
        raise DataError(f"{other}: no such file; check the path")
    return chosen

"""Maps of change as files: on the grid of rasters as GeoTIFF and GeoPackage, and a picture of each pair."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from ....core.contracts import DomainData, Item
from ....core.errors import DataError
from ....core.runtime import Reporter, file_stem
from ..gdal import writing
from ..maps.areas import Ground
from ..maps.rasters import created, strip_rows
from ..maps.regions import Regions, map_regions, write_regions
from ..maps.work import check_free, key_of, put_in_place, work_folders
from ..pictures import is_raster
from ..places import files_of_item
from ..rasters import Header, header_of
from .mapping import NO_VALUE, map_changes
from .pairs import dates_of, pair_size, pair_window, unit_pair
from .pictures import as_colours, marked
from .target import CHANGED, IGNORED, UNCHANGED

MASK, PROBABILITY, REGIONS, PICTURE = "_change.tif", "_probability.tif", "_change.gpkg", ".png"
CHANGE = "change"
PICTURE_SIDE = 1024
"""Of a picture of a pair; a larger pair is shown as far as its upper left corner."""


def map_and_save(
    model: Any, data: DomainData, fingerprint: str, folder: Path | None, progress: Callable[[int, int], None]
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Map pairs and write their files; rows as of `map_changes`.

    Args:
        fingerprint: text that changes with whatever the maps depend on, besides the dates.
        folder: where files are written; None writes none.

    Raises:
        ConfigError: a file is there already. DataError: nothing can be written, or as `map_changes`.
    """
    side, keys = int(model.cfg.vladapt["side"]), []
    for number, item in enumerate(data.items):
        before, after = dates_of(item)
        keys.append(key_of(before, key_of(after, fingerprint), side, number))
    if folder is not None:
        check_free(files_of_pairs(data.items, folder), [folder], keys)
    with TemporaryDirectory(prefix="vladapt-") as beside:
        place = Path(beside) if folder is None else folder
        with work_folders([place] * len(keys), keys, Reporter()) as works:
            rows, maps = map_changes(model, data, works, progress)
            if folder is None:
                return rows, []
            thresholds = {row["id"]: row["threshold"] for row in rows}
            made = save_changes(data.items, maps, thresholds, works[0])
            moves = {folder / file.name: file for file in made}
            put_in_place(moves, works[0])
            return rows, list(moves)


def save_changes(
    items: Sequence[Item], maps: Mapping[str, Path], thresholds: Mapping[str, float], folder: Path
) -> list[Path]:
    """Write the files of each pair; returns them.

    `NAME_change.tif` has 0 for no change, 1 for change and 255 where a date has no value; `NAME_probability.tif` per
    cent, 255 likewise; `NAME_change.gpkg` the changed areas as polygons with mean probability and area, of a raster
    that lies somewhere; `NAME.png` both dates, and the change in red.

    Args:
        maps: id -> file of (H, W) bytes of per cent.
        thresholds: id -> least probability that is change.

    Raises:
        DataError: nothing can be written there.
    """
    written: list[Path] = []
    used: set[str] = set()
    for item in items:
        name, (height, width) = _free_name(item, used), pair_size(item)
        percent = np.memmap(maps[item.id], np.uint8, "r", shape=(height, width))
        least = 100 * thresholds[item.id]
        before, _ = dates_of(item)
        raster = is_raster(before.source)
        header = (
            header_of(files_of_item(before), before.decode.get("sensor")) if raster else Header.unplaced(height, width)
        )
        files = [folder / f"{name}{part}" for part in (MASK, PROBABILITY)]
        _write_maps(percent, least, header, *files)
        if header.transform is not None and header.crs:
            files.append(folder / f"{name}{REGIONS}")
            _write_regions(percent, least, header, files[-1])
        files.append(folder / f"{name}{PICTURE}")
        try:
            Image.fromarray(_picture(item, percent, least)).save(files[-1])
        except OSError as error:
            raise DataError.unwritable(f"--out {folder}", error, "give another folder") from error
        written += files
    return written


def files_of_pairs(items: Sequence[Item], folder: Path) -> Iterator[Path]:
    """All files that `save_changes` may write."""
    used: set[str] = set()
    for item in items:
        name = _free_name(item, used)
        yield from (folder / f"{name}{part}" for part in (MASK, PROBABILITY, REGIONS, PICTURE))


def _write_maps(percent: np.ndarray, least: float, header: Header, mask_file: Path, probability_file: Path) -> None:
    """Both rasters, strip by strip."""
    height, width = percent.shape
    with writing(mask_file.parent), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with created(mask_file, header, IGNORED) as mask, created(probability_file, header, NO_VALUE) as probability:
            mask.set_band_description(1, CHANGE)
            mask.update_tags(1, CLASS_0="no change", CLASS_1=CHANGE)
            mask.write_colormap(1, {UNCHANGED: (0, 0, 0, 0), CHANGED: (215, 60, 50, 255)})
            probability.set_band_description(1, "probability of change in per cent")
            for each in (mask, probability):
                each.update_tags(SOFTWARE="vladapt")
            rows = strip_rows(width)
            for top in range(0, height, rows):
                part = percent[top : top + rows]
                place = ((top, top + len(part)), (0, width))
                mask.write(_mask(part, least), 1, window=place)
                probability.write(part, 1, window=place)


def _mask(percent: np.ndarray, least: float) -> np.ndarray:
    changed = np.where(percent >= least, CHANGED, UNCHANGED)
    return np.where(percent == NO_VALUE, IGNORED, changed).astype(np.uint8)


def _write_regions(percent: np.ndarray, least: float, header: Header, file: Path) -> None:
    """Changed areas, from two rasters that are made for it."""
    ground = Ground.of(header)
    classes, scores = (file.with_name(f".{file.stem}-{part}.tif") for part in ("classes", "scores"))
    file.unlink(missing_ok=True)
    try:
        _write_maps(percent, least, header, classes, scores)
        regions = map_regions(classes, scores, ground)
    finally:
        for each in (classes, scores):
            each.unlink(missing_ok=True)
    of_change = regions.classes == CHANGED - 1
    parts = (regions.shapes, regions.classes, regions.scores, regions.areas)
    write_regions(Regions(*(of[of_change] for of in parts)), [CHANGE], ground, file)


def _picture(item: Item, percent: np.ndarray, least: float) -> np.ndarray:
    height, width = (min(side, PICTURE_SIDE) for side in percent.shape)
    pixels, _ = unit_pair(item if percent.shape == (height, width) else pair_window(item, (0, 0, width, height)))
    before, after = map(as_colours, pixels)
    return marked(before, after, _mask(percent[:height, :width], least) == CHANGED)


def _free_name(item: Item, used: set[str]) -> str:
    """The name of the pair, with a number where another of that name was written."""
    stem = file_stem(Path(item.id).with_suffix("").as_posix().replace("/", "_"))
    name = next(name for name in (stem, *(f"{stem}_{n}" for n in range(2, len(used) + 3))) if name not in used)
    used.add(name)
    return name

"""Slides as samples: how each is cut into tiles, and which cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ....core.contracts import Columns, Decoded, DomainData, Item
from ....core.data import FileHashes
from ....core.errors import CapabilityError, ConfigError, DataError
from ..studies import column_called
from .file_kinds import SLIDE, slide_thumbnail
from .options import MPP, TILE, SlideOptions
from .reading import LEAST_MPP, MOST_MPP, Slide
from .regions import regions_of
from .tiles import SlideTiles, Tiling, tiles_of

CLASSIFICATION = "classification"
MPP_COLUMNS = ("mpp", "slide mpp")
PACKAGES = {"openslide": "openslide-python", "cv2": "opencv-python-headless", "shapely": "shapely"}
OF_SEVERAL_FILES = (".mrxs", ".vms", ".vmu")


def check_slides(task: str) -> None:
    """Refuse slides before anything is read.

    Raises:
        ConfigError: they are not for that task. CapabilityError: what reads them is not installed.
    """
    if task != CLASSIFICATION:
        raise ConfigError(f"--unit {SLIDE}: is for --task {CLASSIFICATION}; omit one of them")
    check_slide_packages(PACKAGES)


def check_slide_packages(packages: Mapping[str, str]) -> None:
    """Refuse slides where a package is not installed.

    Args:
        packages: module -> name of its package.
    """
    for module, package in packages.items():
        if find_spec(module) is None:
            raise CapabilityError(
                f"--unit {SLIDE} needs the package '{package}'; install it with: pip install 'vladapt[slides]'"
            )


def as_slides(data: DomainData, reading: SlideOptions) -> DomainData:
    """A set of slide files, each of which is read by its tiles and shown as its thumbnail.

    `Item.decode` says how it is cut, so that what is computed of a slide is not taken for another cutting. Slides that
    give no tile are skipped when the samples are checked, before any is encoded.

    Args:
        data: as read, an item per slide.
        reading: of these `mpp`, `tile`, `tissue`, `slide_mpp` and `regions`.

    Raises:
        ConfigError: the regions are of none of the slides. DataError: a resolution in the table is no number.
    """
    stated = _resolutions(data.columns and data.columns())
    regions, files = None if reading.regions is None else Path(reading.regions), None
    if regions is not None:
        files = {item.id: regions_of(regions, item.source) for item in data.items}
        if data.items and not any(files.values()):
            raise ConfigError(
                f"--regions {regions}: is of none of the {len(data.items)} slides of {data.name}; name it after its "
                f"slide, such as {data.items[0].source.stem}.geojson"
            )
    items, skipped, guessed, hashes = [], [], {}, FileHashes()
    for item in data.items:
        try:
            slide = Slide.of(item.source)
            mpp = stated.get(item.id) or slide.resolution(reading.slide_mpp)
            file = None if files is None else files[item.id]
            if files is not None and file is None:
                raise DataError(f"--regions {regions}: has no file of this slide, {item.source.stem}.geojson")
            digests = {"digest": _digest(item.source), "regions": file and hashes.sha256(file)}
        except DataError as error:
            skipped.append((item.id, str(error).removeprefix(f"{item.source}: ")))
            continue
        if slide.mpp is None and reading.slide_mpp is None and item.id not in stated:
            guessed[item.id] = slide.power, mpp
        how = {"tile": reading.tile or TILE, "mpp": reading.mpp or MPP, "tissue": reading.tissue, "slide_mpp": mpp}
        items.append(item.with_(decode={**how, **{name: each for name, each in digests.items() if each}}))

    def tiles(item: Item) -> SlideTiles:
        return tiles_of(item.source, tiling_of(item, regions))

    def load(item: Item) -> Decoded:
        tiles(item)
        return slide_thumbnail(item.source, item.decode)

    notes = [*data.notes, *_on_guesses(guessed)]
    cut = {"tile": reading.tile or TILE, "mpp": reading.mpp or MPP}
    of = {
        "reading": {**data.reading, **cut},
        "items": items,
        "skipped": [*data.skipped, *skipped],
        "load": load,
        "tiles": tiles,
        "notes": notes,
    }
    return replace(data, **of)


def tiling_of(item: Item, regions: Path | None) -> Tiling:
    """How an item is cut, as its `decode` says.

    Args:
        regions: file or folder of outlines that the user gave.
    """
    how = {name: item.decode[name] for name in ("tile", "mpp", "tissue", "slide_mpp")}
    return Tiling(**how, regions=None if regions is None else regions_of(regions, item.source))


def _resolutions(columns: Columns | None) -> Mapping[str, float]:
    """What a table says of slides by their ids, in micrometres per pixel; empty cells say nothing."""
    name = None if columns is None else column_called(columns, MPP_COLUMNS)
    if columns is None or name is None:
        return {}
    stated = {}
    for id_, cell in columns.cells(name).items():
        if not cell.strip():
            continue
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not LEAST_MPP <= value <= MOST_MPP:
            raise DataError(
                f"{columns.place}: column {name} says '{cell}' of {id_}; give micrometres per pixel, {LEAST_MPP:g} to "
                f"{MOST_MPP:g}"
            )
        stated[id_] = value
    return stated


def _digest(path: Path) -> str | None:
    """Of all files of a slide that has several; None of others."""
    suffix, beside = path.suffix.lower(), []
    if suffix not in OF_SEVERAL_FILES:
        return None
    if suffix == ".mrxs":
        beside = sorted(file for file in path.with_suffix("").glob("*") if file.is_file())
    else:
        named = (line.partition("=")[2].strip() for line in path.read_text("latin-1").splitlines())
        beside = sorted({file for name in named if name and (file := path.parent / Path(name).name).is_file()})
    return FileHashes.of_files([path, *beside])


def _on_guesses(guessed: Mapping[str, tuple[float | None, float]]) -> list[str]:
    if not guessed:
        return []
    first, (power, mpp) = next(iter(guessed.items()))
    return [
        f"Resolution guessed from the objective: {len(guessed)} slides, such as {first} ({power:g}x: {mpp:g} "
        "micrometres per pixel); give --slide-mpp where that is wrong."
    ]

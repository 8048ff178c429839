"""`predict --out map.tif`: which files are asked for of which rasters, made beside their places, and put there at the
end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ....core.contracts import Domain, DomainData, Item, OwnFiles, Scorer, Use
from ....core.errors import ConfigError, DataError
from ....core.runtime import Reporter, file_stem, json_text, write_whole
from ..gdal import DRIVERS
from ..pictures import is_raster
from ..places import files_of_item
from ..rasters import header_of
from ..stacks import PRODUCT_FILES
from ..windows import Cutting
from . import MAP_FILES
from .areas import Ground
from .page import Layer, hex_colours, layer_of, write_map_page
from .rasters import write_rasters
from .reference import ElsewhereError, Reference, assess
from .regions import map_regions, write_regions
from .scores import RasterWindows, UnmappableError, score_windows
from .summary import as_json, class_facts, matrix_of, rows_as_text, summary_columns, with_half
from .work import check_free, key_of, put_in_place, work_folders

MAP, SCORES, PACKAGE, GEOJSON, ACCURACY, PAGE = ".tif", "_scores.tif", ".gpkg", ".geojson", "_accuracy.json", ".html"
FACTS = (".csv", ".jsonl")
"""Of files of rows that go with a map."""
OF_ROWS = ("top", "threshold", "coverage", "set_method", "coverage_per", "max_error")


@dataclass
class Planned:
    """The map of one raster.

    Args:
        name: of the raster, for messages.
        windows: of it.
        targets: what of a map ("_scores.tif") -> the file that is to be written.
        work: folder beside the targets that holds what is done so far.
    """

    name: str
    windows: RasterWindows
    targets: dict[str, Path]
    reference: Reference | None = None
    work: Path = Path()
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def ground(self) -> Ground:
        return Ground.of(self.windows.header)

    def made(self, part: str) -> Path:
        """Where a file stands until all are finished."""
        return self.work / f"map{part}"


@dataclass(frozen=True)
class MapOptions:
    """How rasters are mapped.

    Args:
        cutting: their windows.
        reference: label layer to compare the map with, or None; column: that names the class.
        names: of the values of a raster of classes, in order.
        seed: of the draw of pixels that are compared.
        domain: as it shows windows to the model; None for the run's own.
    """

    cutting: Cutting
    reference: Path | None = None
    column: str | None = None
    names: Sequence[str] | None = None
    seed: int = 0
    domain: Domain | None = None


def write_maps(
    use: Use, rasters: DomainData, options: MapOptions, scorer: Callable[[], Scorer], reporter: Reporter
) -> OwnFiles:
    """Map rasters.

    Args:
        use: what is asked for.
        rasters: whole ones, as the run reads them.
        options: how.
        scorer: loads the run's model.

    Raises:
        ConfigError, DataError: what cannot be mapped, or written there; nothing is written then.
    """
    for key in OF_ROWS:
        if {**vars(use), **use.judging}.get(key) is not None:
            raise ConfigError(f"--{key.replace('_', '-')}: applies to tables of predictions, not to maps; omit it")
    class_names = tuple(use.run.info.class_names)
    items, skipped = _rasters_of(rasters)
    plans = [_planned(item, name, use, options) for name, item in _named(items).items()]
    _check_places(use, plans, len(items) > 1)
    for plan in plans:
        _note_on_place(plan)
        if options.reference is not None:
            _lay_over(plan, options, class_names, alone=len(plans) == 1)
    model = scorer()
    if model.multilabel:
        raise ConfigError(
            f"{use.run.shown}: has several labels per window, but a map has one class per pixel; give a run fitted "
            "on one label per image"
        )
    metres = any(plan.ground.in_metres for plan in plans)
    written = OwnFiles([], summary_columns(len(plans) > 1, metres, options.reference is not None), skipped=skipped)
    pages: dict[Path, list[Layer]] = {}
    places = [_place(plan, use) for plan in plans]
    keys = [key_of(w.item, model.fingerprint, w.size, w.stride) for w in (plan.windows for plan in plans)]
    check_free([*use.files, *(target for plan in plans for target in plan.targets.values())], places, keys)
    with work_folders(places, keys, reporter) as folders:
        for plan, folder in zip(plans, folders):
            plan.work = folder
            try:
                facts, layer = _made(plan, model, options, reporter)
            except UnmappableError as error:
                written.skipped.append((plan.windows.item.id, str(error)))
                plan.targets.clear()
                if len(plans) == 1 or not any(plan.targets for plan in plans):
                    raise
                continue
            written.facts += facts
            if layer is not None:
                pages.setdefault(plan.targets[PAGE], []).append(layer)
            written.skipped += plan.skipped
            written.notes += [f"{plan.name}: {note}" if len(plans) > 1 else note for note in plan.notes]
        for target, layers in pages.items():
            write_map_page(next(plan for plan in plans if plan.targets.get(PAGE) == target).made(PAGE), layers)
        _put_in_place(plans, use, written)
    return written


def is_map(use: Use) -> bool:
    """Whether a `predict` asks for a map: a folder, a file that nothing else has, or, of a run that was fitted on
    windows, a page of rasters."""
    suffixes = {file.suffix.lower() for file in use.files}
    if use.out is not None or suffixes & set(MAP_FILES):
        return True
    return PAGE in suffixes and fitted_on_windows(use) and all(is_raster(Path(image)) for image in use.images)


def fitted_on_windows(use: Use) -> bool:
    """Whether a run learned windows of rasters, so that it says how large they are."""
    return use.run.info.recipe["data"].get("labels") is not None


def _rasters_of(data: DomainData) -> tuple[list[Item], list[tuple[str, str]]]:
    """Rasters, and (name, why not) of what is none or cannot be opened; one alone is an error."""
    items, skipped = [], list(data.skipped)
    for item in data.items:
        try:
            if not is_raster(item.source):
                suffixes = " ".join(DRIVERS)
                raise DataError(f"{item.source}: not a raster, which a map needs; known: {suffixes}")
            header_of(files_of_item(item), item.decode.get("sensor"))
            items.append(item)
        except DataError as error:
            if len(data.items) == 1:
                raise
            skipped.append((item.id, str(error)))
    if not items:
        raise DataError(f"none of the files given is a raster that can be mapped; {skipped[0][0]}: {skipped[0][1]}")
    return items, skipped


def _named(items: Sequence[Item]) -> dict[str, Item]:
    """Rasters by names that files can have: their own, a product's folder, and a number where one comes twice."""
    named: dict[str, Item] = {}
    for item in items:
        product = item.source.name.lower() in PRODUCT_FILES
        name = file_stem(item.source.resolve().parent.stem if product else item.source.stem)
        number = 2
        while (unique := name if name not in named else f"{name}_{number}") in named:
            number += 1
        named[unique] = item
    return named


def _planned(item: Item, name: str, use: Use, options: MapOptions) -> Planned:
    windows = RasterWindows(item, options.cutting.size, options.cutting.stride, options.domain)
    geojson = (GEOJSON,) if windows.header.crs else ()
    scored = (ACCURACY,) if options.reference is not None else ()
    every = (MAP, SCORES, PACKAGE, *geojson, *scored)
    targets: dict[str, Path] = {}
    if use.out is not None:
        targets |= {part: Path(use.out) / f"{name}{part}" for part in (*every, PAGE)}
    for file in use.files:
        suffix = file.suffix.lower()
        if suffix == MAP:
            targets |= {part: file.with_name(f"{file.stem}{part}") for part in every}
        if suffix == GEOJSON and not windows.header.crs:
            raise ConfigError(f"--out {file}: {item.source} has no CRS, and GeoJSON is in WGS 84; give a .gpkg")
        if suffix not in FACTS:
            targets[suffix] = file
    return Planned(name, windows, targets)


def _check_places(use: Use, plans: Sequence[Planned], several: bool) -> None:
    """Raise the ConfigError of what cannot be written before anything is computed."""
    if use.out is not None and Path(use.out).suffix[1:].isalpha() and not Path(use.out).is_dir():
        kinds = ", ".join((*MAP_FILES, PAGE, *FACTS))
        raise ConfigError(f"--out {use.out}: maps are not written as files of that kind; give {kinds}, or a folder")
    single = [file for file in use.files if file.suffix.lower() in MAP_FILES]
    if several and single:
        raise ConfigError(f"--out {single[0]}: one file for {len(plans)} rasters; give a folder")
    suffixes = [file.suffix.lower() for file in use.files]
    for file, suffix in zip(use.files, suffixes):
        if suffixes.count(suffix) > 1:
            raise ConfigError(f"--out {file}: {suffixes.count(suffix)} files of that kind; give one of each")
    targets = [target for plan in plans for target in plan.targets.values() if target not in use.files]
    if twice := [target for target in targets if targets.count(target) > 1]:
        raise ConfigError(f"{twice[0]}: would be written twice, for two rasters of that name; rename one of them")
    check_free([*use.files, *targets], (_place(plan, use) for plan in plans))


def _place(plan: Planned, use: Use) -> Path:
    """The folder that a map is to stand in."""
    targets = [*plan.targets.values(), *use.files]
    return targets[0].parent


def _note_on_place(plan: Planned) -> None:
    header = plan.windows.header
    if not header.crs:
        plan.notes.append(f"{plan.windows.item.source.name} has no CRS: the map has none either, and no GeoJSON")
    plan.notes.append(plan.ground.words)


def _lay_over(plan: Planned, options: MapOptions, class_names: Sequence[str], alone: bool) -> None:
    """Lay the reference over a raster; of several rasters it need not reach all."""
    windows, how = plan.windows, (options.column, options.names)
    try:
        plan.reference = Reference.open(options.reference, windows.header, windows.item.source, class_names, *how)
    except ElsewhereError as error:
        if alone:
            raise
        plan.notes.append(str(error))


def _made(
    plan: Planned, model: Scorer, options: MapOptions, reporter: Reporter
) -> tuple[list[dict[str, Any]], Layer | None]:
    """Make one map in its work folder."""
    windows, names = plan.windows, model.class_names
    with reporter.task(f"Mapping {plan.name}", unit="windows") as progress:
        scored = score_windows(windows, model, plan.work, progress)
    plan.skipped += scored.skipped
    tags = {"SOFTWARE": "vladapt", "CLASSES": json.dumps(list(names), ensure_ascii=False)}
    with reporter.task(f"Writing {plan.name}", unit="pixels") as progress:
        tally = write_rasters(scored, names, plan.made(MAP), plan.made(SCORES), tags, progress)
    if {PACKAGE, GEOJSON} & set(plan.targets):
        regions = map_regions(plan.made(MAP), plan.made(SCORES), plan.ground)
        for part in (PACKAGE, GEOJSON):
            if part in plan.targets:
                write_regions(regions, names, plan.ground, plan.made(part))
    accuracy = None
    if plan.reference is not None:
        accuracy, notes = assess(plan.reference, plan.made(MAP), names, tally, options.seed)
        plan.notes += notes
    if accuracy is not None:
        plan.notes.append(f"accuracy by area {with_half(accuracy.overall.value, accuracy.overall.half_width)}")
        write_whole(plan.made(ACCURACY), json_text(as_json(accuracy), indent=2) + "\n")
    assessed = options.reference is not None
    facts = class_facts(plan.name, names, tally, plan.ground.in_metres, assessed, accuracy)
    if PAGE not in plan.targets:
        return facts, None
    shades = hex_colours(len(names))
    scores = ["" if fact["score"] is None else f"{fact['score']:.1%}" for fact in facts]
    legend = [(f["class"], shade, f"{f['share']:.1%}", score) for f, shade, score in zip(facts, shades, scores)]
    shown = {"legend": legend, "facts": list(plan.notes), "matrix": matrix_of(accuracy)}
    layer = layer_of(windows, plan.made(MAP), plan.name, **shown)
    if layer.scale > 1:
        plan.notes.append(f"the page shows one pixel of {layer.scale} x {layer.scale}")
    return facts, layer


def _put_in_place(plans: Sequence[Planned], use: Use, written: OwnFiles) -> None:
    """Move all that was made."""
    of_plans = [(target, plan.made(part)) for plan in plans for part, target in plan.targets.items()]
    moves = {target: made for target, made in of_plans if made.exists()}
    for file in use.files:
        if file.suffix.lower() in FACTS:
            moves[file] = plans[0].work / f"facts{file.suffix.lower()}"
            write_whole(moves[file], rows_as_text(written, file.suffix.lower()))
    put_in_place(moves, plans[0].work)
    written.files += list(moves)

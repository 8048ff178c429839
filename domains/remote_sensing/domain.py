"""The remote-sensing domain: scenes and rasters from above: classified, found by words, outlined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...core.contracts import Decoded, Domain, DomainData, InputChannels, Item
from ...core.data import read_unlabelled
from ...core.errors import ConfigError, DataError
from ...core.registry import load_domain
from .band_statistics import band_statistics, with_stretch
from .dota import is_dota, read_dota
from .drawn_windows import WindowDrawer, with_draws
from .layers import ClassRaster, Shapes, read_layer
from .localization.pictures import window_items
from .maps import MAP_FILES
from .objects import DETECTION, SEGMENTATION, cut_new, cut_objects, read_objects, with_bands, with_values
from .pictures import decode_raster, is_raster, valid_pixels
from .places import with_blocks
from .reading import CHANGE_WINDOW, CORPORA, NUMBERS, RemoteSensingReading
from .scene_sets import SceneSet, scene_set, with_words
from .time_series import part_dates, with_time_series
from .windows import GRID, cut_unlabelled, read_windows

if TYPE_CHECKING:
    import numpy as np

    from ...core.contracts import Corruption, OwnFiles, Scorer, Use
    from ...core.runtime import Reporter

PROMPTS_FILE = Path(__file__).with_name("prompts.json")
DENSE = (DETECTION, SEGMENTATION)
"""Tasks of the domain open-vocab, on windows of rasters."""
OPEN_VOCAB = "open-vocab"
REGRESSION, CHANGE = "regression", "change"
UNUSED_BY_DENSE = ("corpus", "root", "group_column", "min_side", "window_sides", "language", "time_series", "after")
UNUSED_BY_CHANGE = (
    *("corpus", "min_side", "window_sides", "language", "overlap", "min_share", "background"),
    *("label_column", "class_names", "cut", "time_series", "draw_windows"),
)
UNUSED_BY_NUMBERS = (
    *("corpus", "min_side", "window_sides", "language", "min_share", "background", "root", "group_column", "after"),
    *("label_column", "class_names", "cut", "time_series", "draw_windows"),
)
"""Options of the reader that change nothing for them."""


@dataclass(eq=False)
class RemoteSensing(Domain):
    """Pictures from above.

    A published scene set is recognised by the names of its classes: these are spelled out in words, and methods use the
    settings published for that set.

    Args:
        known: the set whose prompt is taken.
        corpus: whose mean and deviation pixels are normalised by; None for the tower's own.
    """

    name = "remote-sensing"
    words: ClassVar = {"image.png": "image.tif", "patient": "place", "patients": "places"}
    tasks = ("classification", "retrieval", "detection", "segmentation", REGRESSION, NUMBERS, CHANGE)
    reading = RemoteSensingReading
    own_files: ClassVar = {"classification": MAP_FILES}
    hit_files: ClassVar = (".gpkg",)

    known: SceneSet | None = None
    corpus: str | None = None

    def read(self, path: str | Path, task: str | None = None, **options: Any) -> DomainData:
        """A labelled set of whatever kind lies at `path`.

        Class folders and tables (csv, tsv, jsonl) of images and rasters, COCO and VOC boxes. Names of class folders
        become words. Lists of a published split beside the class folders are taken (`split_lists.py`); without one,
        rasters that say where they lie are split by place (`places.py`).

        For retrieval, captioned images (`captions.py`). For regression, a table with a number per image.

        With `labels`, a raster or a folder of rasters is cut into windows, whose classes, boxes or masks that layer
        says. Boxes and masks are also read of DOTA's folders, and of all that the domain open-vocab reads.

        Args:
            path: file or folder.
            task: "classification", "retrieval", "detection", "segmentation", "regression" or "change".
            options: fields of `Reading`.

        Raises:
            DataError: nothing there that can be read.
            UnknownNameError: no option of that name.
            ConfigError: a value that is not usable, or an option that does not apply.
        """
        task = self.check_task(task)
        reading, path = self.reading_of(options), Path(path)
        reading.check_column(task)
        if task == "retrieval":
            from .captions import read_captions

            how = {"language": reading.language, "class_names": reading.class_names}
            data = read_captions(path, reading.formats, reading.root, reading.max_pixels, **how)
            data, known = with_blocks(data, reading.block_size), None
        elif task == NUMBERS:
            from .number_maps import read_number_maps

            self._refuse_unused(reading, UNUSED_BY_NUMBERS, task)
            self._check_band_start(reading)
            layer = _layer_file(path, reading) if reading.labels else None
            return read_number_maps(path, reading, reading.cutting, layer)
        elif task == CHANGE:
            from .changes.reading import read_changes

            self._refuse_unused(reading, UNUSED_BY_CHANGE, task)
            self._check_band_start(reading)
            return read_changes(path, replace(reading, window_size=reading.window_size or CHANGE_WINDOW))
        elif task in DENSE:
            return self._with_objects(path, replace(reading, cut=True), task)
        elif task == REGRESSION:
            data, known = _numbers(path, reading), None
        else:
            data, known = with_words(_windows(path, reading) if reading.labels else _pictures(path, reading))
        notes = [*data.notes, *reading.notes_on_unused(data)]
        data = replace(data, notes=notes, domain=replace(self, known=known, corpus=reading.corpus))
        return with_stretch(data, reading.stretch)

    def channels(self, options: Mapping[str, Any]) -> InputChannels | None:
        """Those of `--bands`, where they are three or more."""
        return self.reading_of(options).named_channels

    def read_images(self, paths: Sequence[str | Path], **options: Any) -> DomainData:
        """Unlabelled images, normalised as those of the fit; large rasters cut into windows where those were.

        Args:
            paths: files and folders.
            options: as for `read`; what concerns labels is not used.

        Raises:
            DataError: a path does not exist, or nothing there can be read.
        """
        reading = self.reading_of(options)
        data = replace(read_unlabelled(paths, reading.formats), domain=replace(self, corpus=reading.corpus))
        if reading.time_series:
            return with_time_series(data, reading.formats)
        if reading.window_sides:
            data = with_stretch(data, reading.stretch)
            return data.with_items([w for item in data.items for w in window_items(item, reading.window_sides)])
        if reading.cut:
            data = data if reading.channels is None else with_bands(data, reading.channels)
            return with_values(data.with_items([_told(item) for item in cut_new(data.items, reading.cutting)]))
        return data.with_items(cut_unlabelled(data.items, reading.cutting)) if reading.labels else data

    def read_query(self, path: str | Path, **options: Any) -> DomainData | None:
        """A picture, or a window of a raster: FILE:left,top,width,height in pixels, FILE@left,bottom,right,top in its
        coordinates."""
        from .hits import read_window

        data = read_window(path, self.reading_of(options))
        return None if data is None else replace(data, domain=replace(self, corpus=self.reading_of(options).corpus))

    def part_names(self, item: Item, count: int) -> Sequence[str]:
        """The days of several dates of a place; of several composites of each none."""
        days = part_dates(item)
        return days if len(days) == count else ()

    def write_hits(self, items: Sequence[Item], scores: Sequence[float], file: Path) -> list[str]:
        """A GeoPackage."""
        from .hits import write_hits

        return write_hits(items, scores, file)

    def drawer(self, items: Sequence[Item], class_names: Sequence[str]) -> Callable[[int, int], Item]:
        """Windows of a large raster."""
        return WindowDrawer(items, class_names)

    def writes_own(self, use: Use, task: str, reading: Mapping[str, Any]) -> bool:
        """A map of whole rasters: a file that is one, a folder, or a page where the run was fitted on windows."""
        from .maps.mapping import is_map

        return task in self.own_files and is_map(use)

    def write_own(
        self, use: Use, task: str, reading: Mapping[str, Any], scorer: Callable[[], Scorer], reporter: Reporter
    ) -> OwnFiles:
        """Maps of rasters (`maps/mapping.py`). A layer given now, by `labels`, is what they are compared with."""
        from .maps.mapping import MapOptions, fitted_on_windows, write_maps

        options, given = self.reading_of(reading), use.reading or {}
        if options.time_series:
            raise ConfigError(
                f"{use.run.shown}: learned from several dates of a place, so it makes no maps; omit --out"
            )
        if not fitted_on_windows(use) and "window_size" not in given:
            raise ConfigError(
                f"{use.run.shown}: was fitted on whole pictures; give --window-size, the side in pixels of the "
                "windows of a map, as large as those pictures"
            )
        rasters = read_unlabelled(use.images, options.formats)
        layer = given.get("labels")
        how = {"column": given.get("label_column"), "names": options.class_names}
        seed = int(use.run.info.recipe.get("seed") or 0)
        seen = replace(self, corpus=options.corpus)
        cut = MapOptions(options.cutting, None if layer is None else Path(layer), **how, seed=seed, domain=seen)
        written = write_maps(use, rasters, cut, scorer, reporter)
        learned = (use.run.info.recipe.get("data") or {}).get("labels")
        if layer is not None and learned and Path(layer).name == Path(learned).name:
            written.notes.append(
                f"the run learned from a layer called {Path(layer).name} too: if it is this one, the accuracy "
                "flatters the map; the run's report shows the accuracy on windows that it did not learn from"
            )
        return written

    def sample(self, task: str | None = None) -> DomainData:
        """360 scenes of 12 kinds, 132 captioned ones, or 240 with a share of built area, drawn on demand; no
        download."""
        from .drawn_scenes import drawn_scene_pairs, drawn_scenes
        from .drawn_shares import drawn_shares

        if self.check_task(task) == REGRESSION:
            return drawn_shares()
        if self.check_task(task) in DENSE:
            return load_domain(OPEN_VOCAB).sample(task)
        if task == NUMBERS:
            from .drawn_heights import NOTE, heights_folder

            licence = "Apache-2.0 (made by vladapt)"
            return replace(self.read(heights_folder(), NUMBERS), name="drawn canopy", licence=licence, notes=[NOTE])
        if self.check_task(task) == CHANGE:
            return self._drawn_changes()
        return drawn_scene_pairs() if self.check_task(task) == "retrieval" else drawn_scenes()

    def _drawn_changes(self) -> DomainData:
        from .changes.drawn import NOTE, SIDE, changes_folder
        from .changes.reading import read_changes

        data = read_changes(changes_folder(), RemoteSensingReading(window_size=SIDE))
        return replace(data, name="drawn changes", licence="Apache-2.0 (made by vladapt)", notes=[NOTE, *data.notes])

    def decode(self, path: str | Path, decode: Mapping[str, Any]) -> Decoded | None:
        """One picture of a raster; None for an image file.

        Raises:
            DataError: it cannot be decoded, or is several pictures of each place.
        """
        if not is_raster(Path(path)):
            return None
        pixels = decode_raster(path, dict(decode))
        if pixels.ndim != 3:
            raise DataError(f"{path}: --bands makes several pictures of each place; give one composite")
        return pixels

    def valid(self, path: str | Path, decode: Mapping[str, Any]) -> np.ndarray | None:
        """Where a raster has values."""
        return valid_pixels(path, dict(decode)) if is_raster(Path(path)) else None

    def from_training(self, data: DomainData, **options: Any) -> DomainData:
        """With the stretch of the training windows, of a pair that of both dates, where the reader has given none."""
        from .changes.reading import KIND, stretched_pairs

        if "stretch" in data.reading:
            return data
        stretch = self.reading_of(options).stretch
        return stretched_pairs(data, stretch) if data.kind == KIND else with_stretch(data, stretch)

    def channel_statistics(self, items: Sequence[Item]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Those of bands after the stretch."""
        return band_statistics(items)

    def further_files(self, rows, data: DomainData, class_names: Sequence[str], folder: Path) -> list[Path]:
        """What was found in rasters, in their coordinates: `found.gpkg` of boxes, `maps/NAME.tif` of masks."""
        from .found import write_found

        return write_found(rows, data, class_names, folder)

    def templates(self, task: str | None = None) -> list[str]:
        """The 105 of "RS5M and GeoRSCLIP", 2023, arXiv 2306.11300; their features are averaged."""
        kinds, forms = _prompts()["kinds"], _prompts()["forms"]
        return [_with_article(form.replace("[kind]", kind)) for kind in kinds for form in forms]

    def one_template(self, task: str | None = None) -> str | None:
        """CoOp's of EuroSAT, else that of "Enhancing Remote Sensing Vision-Language Models for Zero-Shot Scene
        Classification", 2024, arXiv 2409.00698."""
        return _prompts()["one"] if self.known is None or self.known.one is None else self.known.one

    def negative_templates(self, task: str | None = None) -> list[str]:
        return list(_prompts()["negative"])

    def use_preset(self, name: str) -> str | None:
        """A scene set in any usual spelling ("UC-Merced", "eurosat"), or "none"."""
        self.known = None if name == self.NO_PRESET else scene_set(name)
        return None if self.known is None else self.known.name

    @property
    def corruptions(self) -> Sequence[Corruption]:
        from .corruptions import CORRUPTIONS

        return CORRUPTIONS

    def transforms(self, backbone, train: bool, task: str | None = None) -> Callable[[Decoded], Any]:
        """The backbone's own preprocessing, or its sizes with the mean and deviation of a corpus; for training the
        symmetries, scales, haze and light of pictures from above."""
        from ...core.backbones import EachPart
        from .transforms import OtherCorpus, SceneAugment

        own = tuple(backbone.image_mean), tuple(backbone.image_std)
        statistics = own
        if self.corpus:
            channels, statistics = backbone.channels, CORPORA[self.corpus]
            statistics = statistics if channels is None else tuple(map(channels.widened, statistics))
        if train:
            return EachPart(SceneAugment(backbone.image_size, *statistics))
        usual = backbone.preprocess(False)
        return EachPart(OtherCorpus(usual, own, statistics) if self.corpus else usual)

    @staticmethod
    def _refuse_unused(reading: RemoteSensingReading, unused: Sequence[str], task: str) -> None:
        for name in unused:
            if getattr(reading, name) != getattr(RemoteSensingReading(), name):
                raise ConfigError(f"--set data.{name}: not used by {task}; omit it")

    @staticmethod
    def _check_band_start(reading: RemoteSensingReading) -> None:
        if reading.channels is None and reading.band_start != RemoteSensingReading.band_start:
            raise ConfigError(f"--band-start {reading.band_start}: is for four or more --bands; omit it")

    def _with_objects(self, path: Path, reading: RemoteSensingReading, task: str) -> DomainData:
        """Windows with boxes or masks."""
        unused = (*UNUSED_BY_DENSE, *(() if task == SEGMENTATION else ("background",)))
        self._refuse_unused(reading, unused, task)
        self._check_band_start(reading)
        other = load_domain(OPEN_VOCAB)
        if reading.labels:
            layer = _layer(path, reading)
            data = read_objects(path, layer, reading, reading.cutting, task)
        elif reading.draw_windows != GRID:
            raise ConfigError(
                f"--draw-windows {reading.draw_windows}: windows are drawn where a label layer says what is there; "
                "give --labels, or omit it"
            )
        elif is_dota(path):
            data = with_blocks(read_dota(path, reading.formats), reading.block_size)
        else:
            known = {name: getattr(reading, name) for name in ("class_names", "max_pixels")}
            masks = {"background": reading.background} if task == SEGMENTATION else {}
            data = other.read(path, task, formats=reading.formats, **known, **masks)
            data = with_blocks(data, reading.block_size)
        if not reading.labels:
            data = cut_objects(data, reading.cutting)
        if reading.channels is not None:
            data = with_bands(data, reading.channels)
            if not data.items:
                raise DataError(data.skipped[-1][1])
        data = with_values(data.with_items([_told(item) for item in data.items]))
        if task == SEGMENTATION and data.kind == "boxes":
            data = other.as_masks(data, reading.background)
        if reading.labels:
            data = with_draws(data, layer, reading)
        return replace(data, reading={**data.reading, "cut": True, "window_size": reading.cutting.size})


def _told(item: Item) -> Item:
    """A raster that says who decodes it."""
    return item.with_(decode={**item.decode, Item.READ_BY: RemoteSensing.name}) if is_raster(item.source) else item


def _pictures(path: Path, reading: RemoteSensingReading) -> DomainData:
    """Files that are a picture each."""
    from ...core.data import read_any
    from .split_lists import with_split_lists

    if path.is_file() and is_raster(path):
        raise DataError(f"{path}: a raster alone has no classes; give --labels, a layer of classes")
    data = with_split_lists(read_any(path, reading.formats, **reading.of_any()), path)
    data = with_time_series(data, reading.formats) if reading.time_series else data
    return with_blocks(data, reading.block_size)


def _numbers(path: Path, reading: RemoteSensingReading) -> DomainData:
    """Pictures with a number each; those that say where they lie are split by place."""
    from ...core.data import read_numbers

    if reading.labels:
        raise ConfigError("--labels: a layer of classes; regression reads a table with a number per image; omit it")
    return with_blocks(read_numbers(path, reading.formats, reading), reading.block_size)


def _windows(path: Path, reading: RemoteSensingReading) -> DomainData:
    """Windows of rasters. The layer's path is that of the working directory, or of the folder of the data."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a raster, or a folder of rasters")
    if reading.time_series:
        raise ConfigError("--time-series: is for pictures of places, not for windows of --labels; omit one of both")
    layer = _layer(path, reading)
    return with_draws(read_windows(path, layer, reading, reading.cutting), layer, reading)


def _layer(path: Path, reading: RemoteSensingReading) -> Shapes | ClassRaster:
    return read_layer(_layer_file(path, reading), reading.label_column, reading.class_names)


def _layer_file(path: Path, reading: RemoteSensingReading) -> Path:
    file = Path(reading.labels)
    beside = (path if path.is_dir() else path.parent) / file
    return file if file.exists() or not beside.exists() else beside


@lru_cache(maxsize=1)
def _prompts() -> dict[str, Any]:
    """ "kinds" of images, "forms" of templates with [kind] and {}, the "one" of papers, "negative" ones."""
    return json.loads(PROMPTS_FILE.read_text(encoding="utf-8"))


def _with_article(template: str) -> str:
    """ "a aerial" is "an aerial"."""
    return "an" + template[1:] if template.startswith("a aerial") else template

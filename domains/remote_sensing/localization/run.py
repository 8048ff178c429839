"""Semantic localisation of pictures, rasters and indexes: from windows through a tower to map files and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.backbones import load_backbone
from ....core.contracts import Backbone, Item
from ....core.data import locate
from ....core.errors import ConfigError, DataError, shortened
from ....core.features import FeatureStore
from ....core.retrieval import RetrievalIndex
from ....core.runtime import Reporter, file_stem
from ..band_statistics import with_stretch
from ..domain import RemoteSensing
from .annotation import AnnotatedSentence, read_annotation
from .heat import SIDES, HeatMapOptions, SentenceHeatMap
from .pictures import MAP_FILES, check_map_file, item_window, picture_size, whole_picture, window_items, write_map
from .scores import LocalizationScores, localization_scores

AT_ONCE = 1024


@dataclass(frozen=True)
class Localized:
    """A sentence looked for in a picture.

    Args:
        image: the picture's file.
        text: the sentence.
        map: the file that was written.
        scores: where regions are annotated.
    """

    image: Path
    text: str
    map: Path
    scores: LocalizationScores | None = None

    def row(self) -> dict[str, Any]:
        """For JSON."""
        scores = {} if self.scores is None else self.scores.metrics()
        return {"image": str(self.image), "text": self.text, "map": str(self.map), **scores}


@dataclass
class Localization:
    """What `localize` did.

    Args:
        found: each sentence.
        skipped: (window, reason) of what could not be read.
    """

    found: list[Localized] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class PictureWindows:
    """The windows of one picture.

    Args:
        item: the picture.
        boxes: (N, 4) first row, end row, first column, end column.
        cosines: (D,) unit feature of a text -> (N,).
    """

    item: Item
    boxes: np.ndarray
    cosines: Callable[[Tensor], np.ndarray]


def localize(
    source: str | Path,
    out: str | Path,
    asked: HeatMapOptions,
    *,
    backbone: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    reading: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Localization:
    """Write the map of a sentence over a picture from above; with an annotation, of all its sentences, scored.

    Args:
        source: a raster or image; with an annotation also their folder; or an index of windows of rasters
            (`vladapt index big.tif --domain remote-sensing --window-sides 256,512,768`), which is not encoded again.
        out: file of the map, .tif or .png; of several maps a folder.
        asked: the sentence, or an annotation, and how the map is made. An index has its own sides of windows.
        backbone: by default `embedded`, or that of the index.
        device, batch_size, workers: of the tower.
        reading: how rasters are read: bands, sensor, stretch.

    Raises:
        ConfigError: an option is not usable. DataError: a file cannot be read or written.
        CapabilityError: another backbone than that of the index.
    """
    source, out = Path(source), Path(out)
    annotation = None if asked.annotation is None else Path(asked.annotation)
    sentences = None if annotation is None else _sentences(annotation, source, asked.text)
    several = sentences is not None and out.suffix.lower() not in MAP_FILES
    if sentences is not None and len(sentences) > 1 and not several:
        raise ConfigError(
            f"--out {out}: the annotation asks for {len(sentences)} maps; give a folder, or --text for one"
        )
    if not several:
        check_map_file(out)
    if RetrievalIndex.is_in(source):
        if asked.sides is not None or reading:
            raise ConfigError(
                f"{source}: an index already has its windows and options of reading; omit --sides, --bands, ..."
            )
        pictures: _Pictures | _Index = _Index(source, backbone, device)
    else:
        how = {"sides": asked.sides or SIDES, "batch_size": batch_size, "workers": workers}
        pictures = _Pictures(
            source, backbone or "embedded", device, reading or {}, reporter or Reporter(quiet=True), **how
        )
    result = Localization(skipped=pictures.skipped)
    if several:
        out.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(sentences or [None]):
        windows = pictures.windows_of(None if each is None else each.image)
        sentence = asked.text if each is None else each.caption
        file = out / f"{file_stem(windows.item.source.stem)}-{number}.tif" if several else out
        cosines = windows.cosines(_encoded(pictures.backbone, sentence))
        heat = SentenceHeatMap.of(picture_size(windows.item), windows.boxes, cosines, asked.median)
        scores = None if each is None else _scored(heat, each, annotation, asked.even_odd)
        write_map(heat, windows.item, sentence, file)
        result.found.append(Localized(windows.item.source, sentence, file, scores))
    return result


def _sentences(annotation: Path, source: Path, text: str | None) -> list[AnnotatedSentence]:
    """Of one picture, if one is given, and of one text, if one is given."""
    entries = read_annotation(annotation)
    if source.is_file():
        images = list(dict.fromkeys(entry.image for entry in entries))
        if source.name not in images:
            listed = shortened(", ".join(images))
            raise DataError(
                f"{annotation}: does not name {source.name} (it names: {listed}); give a picture that it names, or "
                "their folder"
            )
        entries = [entry for entry in entries if entry.image == source.name]
    if text is None:
        return entries
    if not (chosen := [entry for entry in entries if entry.caption == text.strip()]):
        listed = shortened("; ".join(dict.fromkeys(entry.caption for entry in entries)), 160)
        raise DataError(f"{annotation}: has no caption '{text}' (it has: {listed}); omit --text for all of them")
    return chosen


def _encoded(backbone: Backbone, text: str) -> Tensor:
    return F.normalize(FeatureStore().text_features(backbone, [text])[0].float(), dim=-1)


def _scored(heat: SentenceHeatMap, each: AnnotatedSentence, annotation: Path, even_odd: bool) -> LocalizationScores:
    try:
        return localization_scores(heat.whole(), each.regions, even_odd)
    except DataError as error:
        raise DataError(f"{annotation}: '{shortened(each.caption)}': {error}") from None


class _Pictures:
    """Rasters and images, whose windows are encoded."""

    def __init__(self, source, backbone, device, reading, reporter, *, sides, batch_size, workers):
        if not source.exists():
            raise DataError(f"{source}: no such file or folder; give a raster, or an index")
        self.source, self.sides, self.reporter = source, sides, reporter
        self.how = {"batch_size": batch_size, "workers": workers}
        self.domain, self.reading = RemoteSensing(), dict(reading)
        self.stretch = self.domain.reading_of(self.reading).stretch
        self.backbone = load_backbone(backbone, device=device)
        self.skipped: list[tuple[str, str]] = []
        self._last: tuple[Path, PictureWindows] | None = None

    def windows_of(self, name: str | None) -> PictureWindows:
        """Of the picture that an annotation names; None for the only one."""
        path = self._path(name)
        if self._last is None or self._last[0] != path:
            self._last = path, self._windows(path)
        return self._last[1]

    def _path(self, name: str | None) -> Path:
        if self.source.is_dir():
            if name is None:
                raise DataError(f"{self.source}: a folder; give one raster, or an --annotation")
            path = locate(name, [self.source], "the annotation")
            if path is None:
                raise DataError(f"{self.source}: has no {name}, which the annotation names; add it")
            return path
        return self.source

    def _windows(self, path: Path) -> PictureWindows:
        data = with_stretch(self.domain.read_images([path], **self.reading), self.stretch)
        if not data.items:
            raise DataError(f"{path}: cannot be read ({data.skipped[0][1] if data.skipped else 'no picture'})")
        item = data.items[0]
        items, boxes, features = window_items(item, self.sides), [], []
        transform = self.domain.of(data).transforms(self.backbone, False)
        with self.reporter.task(f"Encoding windows of {path.name}", unit="windows") as progress:
            how = {"at_once": AT_ONCE, "progress": progress, **self.how}
            for extraction in FeatureStore().some_at_once(data, items, self.backbone, transform, **how):
                self.skipped += extraction.skipped
                boxes += [item_window(each.decode) for each in extraction.items]
                features += [extraction.features.unit] if extraction.items else []
        if not boxes:
            raise DataError(f"{path}: no window of it can be read ({self.skipped[-1][1]})")
        every = torch.cat(features)  # (N, D)
        return PictureWindows(item, np.array(boxes), lambda query: (every @ query).numpy())


class _Index:
    """An index of windows of rasters."""

    def __init__(self, path: Path, backbone: str | None, device: str):
        self.opened = RetrievalIndex.open(path)
        made_by = self.opened.info.backbone
        self.backbone = load_backbone(backbone or made_by.spec, device=device, image_size=made_by.image_size)
        self.opened.check_backbone(self.backbone)
        self.skipped: list[tuple[str, str]] = []

    def windows_of(self, name: str | None) -> PictureWindows:
        """As `_Pictures.windows_of`."""
        entries = list(self.opened.entries)
        sources = sorted({entry.source for entry in entries if entry.source})
        of_name = [source for source in sources if name in (None, Path(source).name)]
        if len(of_name) != 1:
            which = "holds no picture" if not of_name else f"holds {len(of_name)} pictures"
            named = "" if name is None else f" named {name}"
            raise DataError(
                f"{self.opened.path}: {which}{named}; give an index of one, or an --annotation that names it"
            )
        chosen = {entry.id: item_window(entry.decode) for entry in entries if entry.source == of_name[0]}
        if None in chosen.values():
            cure = "index it with --window-sides 256,512,768"
            raise DataError(f"{self.opened.path}: holds {Path(of_name[0]).name} as a whole; {cure}")
        first = next(entry for entry in entries if entry.source == of_name[0])

        def cosines(query: Tensor) -> np.ndarray:
            scores = {hit.entry.id: hit.score for hit in self.opened.search(query, len(self.opened))}
            if not chosen.keys() <= scores.keys():
                raise DataError(f"{self.opened.path}: not all windows were found; index them again with --kind flat")
            return np.array([scores[id_] for id_ in chosen])

        return PictureWindows(whole_picture(first.item()), np.array(list(chosen.values())), cosines)

"""Which tiles an answer on a slide rests on, shown: in rows, as GeoJSON for QuPath, and on pictures of the slides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...contracts.adapter import Adapter
from ...contracts.bags import Bag
from ...contracts.domain import Domain
from ...contracts.features import FeatureSet
from ...contracts.judgement import JudgedClassifier
from ...errors import DataError
from ...explanation.deciding_tiles import ATTENTION, LOSS, MOST, DecidingTiles, deciding_tiles
from ...explanation.tile_maps import TilePlaces, as_geojson, tile_map
from ...features.bag_files import JoinedBag
from ...runs.sections import PictureSection

IN_FILE = 100
"""Tiles of a GeoJSON file."""
SHOWN = 3
"""Slides of a report that are right, and that are wrong."""
SIDE = 418
"""Pixels of a picture in a report."""
MEANING = {ATTENTION: "where the method looked", LOSS: "how far the logit falls without a tile"}
"""Of weights, for a note."""
Thumbnail = Callable[[int], np.ndarray]
"""Row -> decoded picture of a slide."""


@dataclass(frozen=True)
class ShownTiles:
    """Of one slide, or of the slides of a patient.

    Args:
        tiles: that decide.
        places: where tiles lie, or None where that is not known.
        class_name: that they decide for.
        thumbnail: decodes a picture of the slide; None where there is none.
        scanned: whether this picture is of the slide itself, not of where its tiles lie.
        slides: name of a slide -> its own tiles among these, of a patient with several; the slide of the first first.
    """

    tiles: DecidingTiles
    places: TilePlaces | None
    class_name: str
    thumbnail: Callable[[], np.ndarray] | None = None
    scanned: bool = True
    slides: Mapping[str, ShownTiles] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """The first tiles, as JSON; of several slides each tile by its place in its own."""
        if self.slides:
            rows = [{"slide": name, **row} for name, shown in self.slides.items() for row in shown.rows()]
            return sorted(rows, key=lambda row: -row["weight"])[:MOST]
        return self.tiles.rows(None if self.places is None else self.places.coords)

    def words(self) -> str:
        """The first tiles in a sentence."""
        tiles = [
            (f"{row['part']} of {row['slide']}" if self.slides else row["part"], row["weight"]) for row in self.rows()
        ]
        if self.tiles.kind == ATTENTION:
            parts = [f"{name} ({weight:.0%})" for name, weight in tiles]
            return f"Tiles with the largest weights: {', '.join(parts)}."
        parts = [f"{name} (by {weight:.2f})" for name, weight in tiles]
        return f"Tiles without which the logit falls most: {', '.join(parts)}."

    @property
    def geojson(self) -> dict[str, Any] | None:
        """For QuPath; None where it is not known where tiles lie."""
        return None if self.places is None else as_geojson(self.tiles, self.places, self.class_name)

    @cached_property
    def slide(self) -> np.ndarray | None:
        """(H, W, 3) uint8, decoded once; None where it cannot be read."""
        try:
            return None if self.thumbnail is None else Domain.as_still(np.asarray(self.thumbnail()))
        except DataError:
            return None

    @property
    def picture(self) -> np.ndarray | None:
        """(H, W, 3) uint8, of a slide that cannot be read the tiles alone, of several slides that of the first tile;
        None where their places are not known."""
        if self.slides:
            return next(iter(self.slides.values())).picture
        if self.places is None:
            return None
        return tile_map(self.tiles, self.places, self.slide if self.scanned else None)


def has_tiles(adapter: Adapter, features: FeatureSet) -> bool:
    """Whether samples are bags of tiles, and the method answers by these."""
    return adapter.reads_bags and features.stored_bags is not None


def shown_tiles(
    adapter: Adapter,
    features: FeatureSet,
    called: Sequence[tuple[int, int]],
    class_names: Sequence[str],
    thumbnail: Thumbnail | None = None,
    scanned: bool = True,
) -> list[ShownTiles]:
    """The tiles that decide, of some slides, whose bags are read one at a time; none of samples without tiles.

    Args:
        called: (row, class index) of each.
        thumbnail, scanned: as of `ShownTiles`.
    """
    if not has_tiles(adapter, features):
        return []
    bags, made = features.bags.to(features.features.device), []
    for row, target in called:
        tiles = deciding_tiles(adapter, bags[row], target, IN_FILE)
        load = None if thumbnail is None else (lambda row=row: thumbnail(row))
        of = (class_names[target], load, scanned)
        slides = _of_slides(tiles, bags.stored(row), class_names[target])
        made.append(ShownTiles(tiles, TilePlaces.of(bags.coords(row), bags.attributes(row)), *of, slides))
    return made


def _of_slides(tiles: DecidingTiles, bag: Bag, class_name: str) -> dict[str, ShownTiles]:
    """Slide of a patient -> those of the deciding tiles that lie in it; none of a bag of one slide."""
    start, of_slide = 0, []
    for name, own in zip(bag.slides, bag.bags) if isinstance(bag, JoinedBag) else ():
        if (among := tiles.within(start, own.counts[0])) is not None:
            of_slide.append((name, ShownTiles(among, TilePlaces.of(own.coords(0), own.attributes), class_name)))
        start += own.counts[0]
    return dict(sorted(of_slide, key=lambda each: -each[1].tiles.weights[0]))


def tile_section(judged: JudgedClassifier, ids: Sequence[str], thumbnail: Thumbnail | None) -> PictureSection | None:
    """Of a report: the surest wrong and the surest right slides, and what decided; None of samples without tiles, or
    with several labels.

    Args:
        ids: N names of the test slides, or none.
    """
    labels, logits, class_names = judged.labels, judged.scores.adapted_logits.float(), judged.class_names
    if labels is None or labels.ndim > 1 or not judged.own_classes or not has_tiles(judged.adapter, judged.test):
        return None
    shares = logits.softmax(dim=1) if judged.calibration is None else judged.calibration.probabilities(logits)
    sureness, called = shares.max(dim=1)
    right, rows = (called == labels.to(called.device)).tolist(), []
    order = sureness.argsort(descending=True).tolist()
    for hit in (False, True):
        rows += [row for row in order if right[row] == hit][:SHOWN]
    pairs, scanned = [(row, int(called[row])) for row in rows], judged.prepared.data.tiles is not None
    shown = shown_tiles(judged.adapter, judged.test, pairs, class_names, thumbnail, scanned)
    pictures = []
    for row, each in zip(rows, shown):
        if (picture := each.picture) is not None:
            name = ids[row] if row < len(ids) else f"test image {row + 1}"
            truth = "" if right[row] else f", and is “{class_names[int(labels[row])]}”"
            pictures.append((picture, f"{name}: “{each.class_name}” ({float(sureness[row]):.0%}){truth}"))
    if not pictures:
        return None
    note = (
        "The surest wrong answers first, then the surest right ones; the five tiles that weigh most are outlined. An "
        f"aid, not a proof: weights say {MEANING[shown[0].tiles.kind]}, not why the slide has its class."
    )
    return PictureSection("Deciding tiles", pictures, note, SIDE, columns=2)

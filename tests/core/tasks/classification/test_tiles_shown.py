"""Which tiles an answer on a slide rests on, shown."""

from __future__ import annotations

import numpy as np

from vladapt.core.errors import DataError
from vladapt.core.explanation.deciding_tiles import DecidingTiles
from vladapt.core.explanation.tile_maps import TilePlaces
from vladapt.core.tasks.classification.tiles_shown import ShownTiles

TILES = DecidingTiles([1, 0], [0.9, 0.1], "attention")
PLACES = TilePlaces(np.array([[0, 0], [100, 0]]), 100, (200, 100))


def test_a_slide_is_decoded_once_however_often_it_is_shown():
    decoded = []

    def thumbnail() -> np.ndarray:
        decoded.append(1)
        return np.full((50, 100, 3), 200, np.uint8)

    shown = ShownTiles(TILES, PLACES, "ill", thumbnail)
    assert shown.slide.shape == shown.picture.shape == shown.picture.shape == (50, 100, 3)
    assert len(decoded) == 1


def test_over_what_is_no_scan_and_where_a_slide_cannot_be_read_the_tiles_alone_are_drawn():
    def lost() -> np.ndarray:
        raise DataError("gone")

    alone = ShownTiles(TILES, PLACES, "ill").picture
    assert alone.shape == (512, 1024, 3)
    np.testing.assert_array_equal(ShownTiles(TILES, PLACES, "ill", lost).picture, alone)
    drawn = ShownTiles(TILES, PLACES, "ill", lambda: np.zeros((5, 5, 3), np.uint8), scanned=False)
    assert drawn.slide.shape == (5, 5, 3)
    np.testing.assert_array_equal(drawn.picture, alone)

"""Which tiles an answer on a slide rests on, shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.bags import Bags
from vladapt.core.errors import DataError
from vladapt.core.explanation.deciding_tiles import DecidingTiles
from vladapt.core.explanation.tile_maps import TilePlaces
from vladapt.core.features.bag_files import JoinedBag, open_bag, write_bag
from vladapt.core.tasks.classification.tiles_shown import ShownTiles, shown_tiles

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


def test_the_tiles_of_a_patient_are_named_with_their_slides_and_lie_where_they_are_in_these(tmp_path):
    """The tile that decides is the third of the second slide; each slide counts its tiles and places from its own."""
    rng, bags = np.random.default_rng(0), []
    for name, count in (("a", 4), ("b", 6)):
        rows = torch.from_numpy(rng.normal(size=(count, 8)).astype(np.float32))
        rows[2, 0] += 20 * (name == "b")
        places = torch.arange(count)[:, None] * torch.tensor([[100, 0]]) + (0 if name == "a" else 7)
        bags.append(
            open_bag(write_bag(tmp_path / f"{name}.safetensors", rows, places, {"size": [1000, 500], "side": 100}))
        )
    joined = FeatureSet.of_bags(Bags([JoinedBag(tuple(bags), ("a", "b")), *bags]), labels=torch.tensor([1, 0, 1]))
    adapter = build_adapter("abmil", embed=0, hidden=8, epochs=30, lr=2e-2)
    adapter.fit(joined, TextClassifier(torch.eye(2, 8), class_names=("well", "ill")), seed=0)
    patient, alone = shown_tiles(adapter, joined, [(0, 1), (2, 1)], ("well", "ill"))
    first = patient.rows()[0]
    assert (first["slide"], first["part"], first["x"], first["y"]) == ("b", 2, 207, 7)
    assert patient.words().startswith("Tiles with the largest weights: 2 of b (") and len(patient.rows()) == 5
    assert list(patient.slides) == ["b", "a"] and patient.geojson is None
    assert sum(len(each.tiles.parts) for each in patient.slides.values()) == 10
    weights = adapter.deciding(joined.bags[0])[-1]
    for row in patient.rows():
        assert row["weight"] == pytest.approx(float(weights[row["part"] + 4 * (row["slide"] == "b")]), abs=1e-5)
    assert len(patient.slides["b"].geojson["features"]) == 6 and patient.picture is not None
    assert not alone.slides and alone.rows()[0]["part"] == 2

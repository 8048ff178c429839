"""Which parts of a bag an answer rests on, where they lie, and how that is shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.bags import Bags, HeldBag
from vladapt.core.explanation.deciding_tiles import DecidingTiles, deciding_tiles
from vladapt.core.explanation.tile_maps import TilePlaces, as_geojson, tile_map

WIDTH, NAMES = 8, ("well", "ill")


def drawn(count: int, seed: int) -> tuple[FeatureSet, np.ndarray]:
    """Bags of 10 to 40 tiles, of which one makes a slide ill; and which."""
    rng = np.random.default_rng(seed)
    labels, bags, planted = np.arange(count) % 2, [], []
    for label in labels:
        rows = rng.normal(size=(rng.integers(10, 41), WIDTH)).astype(np.float32)
        planted.append(rng.integers(len(rows)))
        rows[planted[-1], 0] += 9 * label
        bags.append(HeldBag(torch.from_numpy(rows)))
    return FeatureSet.of_bags(Bags(bags), labels=torch.from_numpy(labels), class_names=NAMES), np.array(planted)


@pytest.fixture(scope="module", params=["abmil", "clam"])
def adapter(request):
    options = {"abmil": {"embed": 0, "hidden": 8, "epochs": 20, "lr": 2e-2}}
    options["clam"] = {"branches": True, "epochs": 10, "lr": 1e-3}
    adapter = build_adapter(request.param, **options[request.param])
    adapter.fit(drawn(30, 0)[0], TextClassifier(torch.eye(2, WIDTH), class_names=NAMES), seed=0)
    return adapter


def test_the_planted_tile_is_first_by_attention_and_by_what_the_class_loses_without_it(adapter, monkeypatch):
    slides, planted = drawn(20, 1)
    for kind in ("attention", "loss"):
        if kind == "loss":
            monkeypatch.setattr(type(adapter), "deciding", lambda self, bag: None)
        made = [deciding_tiles(adapter, slides.bags[row], 1) for row in range(1, 20, 2)]
        assert {each.kind for each in made} == {kind}
        assert sum(each.parts[0] == part for each, part in zip(made, planted[1::2])) >= 9
        assert all(each.weights == sorted(each.weights, reverse=True) and len(each.parts) == 5 for each in made)


def test_what_a_class_loses_is_exact_for_the_parts_that_are_named(adapter, monkeypatch):
    monkeypatch.setattr(type(adapter), "deciding", lambda self, bag: None)
    bag = drawn(2, 2)[0].bags[1]
    whole, made = adapter.bag_logits(bag), deciding_tiles(adapter, bag, 1, most=3)
    for part, weight in zip(made.parts, made.weights):
        rest = adapter.bag_logits(torch.cat([bag[:part], bag[part + 1 :]]))
        assert weight == pytest.approx(float((whole[1] - whole[0]) - (rest[1] - rest[0])), abs=1e-4)
    assert deciding_tiles(adapter, bag[:1], 1).rows() == [{"part": 0, "weight": 0.0}]


def test_rows_say_where_tiles_lie():
    tiles = DecidingTiles([2, 0], [0.75, 0.25], "attention")
    assert tiles.rows() == [{"part": 2, "weight": 0.75}, {"part": 0, "weight": 0.25}]
    coords = torch.tensor([[0, 0], [256, 0], [512, 256]])
    assert tiles.rows(coords)[0] == {"part": 2, "weight": 0.75, "x": 512, "y": 256}
    assert json.loads(json.dumps(tiles.rows(coords))) == tiles.rows(coords)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 600),
    st.tuples(st.integers(0, 50), st.integers(0, 50)),
    st.data(),
)
def test_squares_lie_inside_the_slide_and_are_the_tiles(across, down, side, origin, data):
    shapely = pytest.importorskip("shapely", reason="extra is not installed")
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2) * side
    parts = data.draw(st.permutations(range(len(grid))))[:5]
    tiles = DecidingTiles(list(parts), [1 / (rank + 1) for rank in range(len(parts))], "attention")
    attributes = {"level0_side": side, "width": across * side, "height": down * side + 1, "origin": origin}
    places = TilePlaces.of(grid, attributes)
    content = json.loads(json.dumps(as_geojson(tiles, places, "ill")))
    assert content["type"] == "FeatureCollection" and len(content["features"]) == len(parts)
    slide = shapely.box(-origin[0], -origin[1], across * side - origin[0], down * side + 1 - origin[1])
    for rank, (part, feature) in enumerate(zip(parts, content["features"]), start=1):
        square = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert square.is_valid and square.area == side**2 and slide.covers(square)
        assert square.bounds[:2] == tuple(grid[part] - origin)
        assert all(type(value) is int for point in feature["geometry"]["coordinates"][0] for value in point)
        properties = feature["properties"]
        assert properties["classification"]["name"] == "ill" and properties["measurements"]["rank"] == rank
        assert properties["measurements"]["attention"] == pytest.approx(1 / rank, abs=1e-6)


def test_a_tile_at_the_edge_is_cut_there_and_without_a_side_the_step_is_it():
    coords = np.array([[0, 0], [300, 0], [0, 300]])
    assert TilePlaces.of(coords, {}).side == 300 and TilePlaces.of(coords, {}).size == (600, 600)
    assert TilePlaces.of(coords, {"level0_side": 300, "width": 500, "height": 600}).box(1) == (300, 0, 500, 300)
    assert TilePlaces.of(None, {"level0_side": 300}) is None
    assert TilePlaces.of(coords[:1], {}) is None, "nothing says how large a single tile is"
    odd = {"level0_side": "big", "width": float("nan"), "height": -1, "origin": [None, "x"]}
    made = TilePlaces.of(coords, odd)
    assert (made.side, made.size, made.origin) == (300, (600, 600), (0, 0)), "a file may say anything"


def test_regions_that_are_cut_from_corners_of_their_own_do_not_make_tiles_small():
    grid = np.stack(np.meshgrid(np.arange(3), np.arange(2)), axis=-1).reshape(-1, 2) * 256
    places = TilePlaces.of(np.concatenate([grid, grid + [1031, 7]]), {})
    assert (places.side, places.size) == (256, (1031 + 3 * 256, 7 + 2 * 256))
    assert TilePlaces.of(np.array([[0, 0], [256, 300]]), {}) is None, "no two tiles are neighbours"


def test_a_size_of_another_slide_does_not_turn_tiles_inside_out():
    places = TilePlaces.of(np.array([[0, 0], [900, 0]]), {"level0_side": 100, "width": 500, "height": 50})
    assert places.box(1) == (900, 0, 1000, 50) and places.box(0) == (0, 0, 100, 50)


@pytest.mark.parametrize("pictured", [True, False])
def test_the_map_is_brightest_where_the_deciding_tile_lies(pictured):
    grid = np.stack(np.meshgrid(np.arange(4), np.arange(3)), axis=-1).reshape(-1, 2) * 1000
    weights = torch.full((12,), 0.01)
    weights[6] = 0.89  # in the second row, the third
    tiles = DecidingTiles([6], [0.89], "attention", weights)
    places = TilePlaces.of(grid, {"level0_side": 1000, "width": 4000, "height": 3000})
    thumbnail = np.full((300, 400, 3), 255, np.uint8) if pictured else None
    drawn = tile_map(tiles, places, thumbnail)
    assert drawn.dtype == np.uint8 and drawn.shape == ((300, 400, 3) if pictured else (768, 1024, 3))
    step = drawn.shape[1] // 4
    middles = drawn[step // 2 :: step, step // 2 :: step].astype(int)
    colour = middles.max(axis=2) - middles.min(axis=2)
    assert colour.argmax() == 6 and np.partition(colour.ravel(), -2)[-2] < colour.max() / 2
    edge = drawn[step - 2 : step + 1, 2 * step : 3 * step].astype(int).sum(axis=-1).min(axis=0)
    assert (edge < 200).mean() > 0.8, "it is outlined"

"""Semantic localisation: windows, the map, its scores, and the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import from_above
from PIL import Image

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing.localization.annotation import read_annotation
from vladapt.domains.remote_sensing.localization.heat import (
    HeatMapOptions,
    SentenceHeatMap,
    TooSmall,
    mean_cells,
    windows_of,
)
from vladapt.domains.remote_sensing.localization.run import localize
from vladapt.domains.remote_sensing.localization.scores import localization_scores, mean_sentence_scores, region_mask

rasterio = pytest.importorskip("rasterio")

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]


@pytest.mark.parametrize("comparison", from_above.GROUPS, ids=lambda each: each.pattern)
def test_the_map_the_scores_and_recalls_equal_the_reference(agrees, comparison):
    agrees(comparison)


# Windows and the map


@settings(max_examples=20)
@given(st.integers(20, 70), st.integers(20, 70), st.sets(st.integers(5, 25), min_size=1, max_size=3))
def test_windows_are_distinct_squares_inside_that_cover_all(height, width, sides):
    if min(sides) > min(height, width):
        with pytest.raises(TooSmall):
            windows_of(height, width, sorted(sides))
        return
    windows = windows_of(height, width, sorted(sides))
    assert len({tuple(window) for window in windows.tolist()}) == len(windows)
    assert (windows >= 0).all() and (windows[:, 1] <= height).all() and (windows[:, 3] <= width).all()
    assert set((windows[:, 1] - windows[:, 0]).tolist()) == {side for side in sides if side <= min(height, width)}
    assert not np.isnan(mean_cells((height, width), windows, np.ones(len(windows)))[2]).any()


def test_each_pixel_has_the_mean_of_its_windows_and_strips_join_without_a_seam():
    rng, size = np.random.default_rng(0), (90, 70)
    windows = windows_of(*size, (20, 31))
    cosines = rng.normal(size=len(windows))
    total, count = np.zeros(size), np.zeros(size)
    for (top, bottom, left, right), cosine in zip(windows, cosines):
        total[top:bottom, left:right] += cosine
        count[top:bottom, left:right] += 1
    mean = total / count
    wanted = (255 * (mean - mean.min()) / (mean.max() - mean.min())).astype(int)
    heat = SentenceHeatMap.of(size, windows, cosines, median=11)
    assert np.abs(heat.before_filter(0, size[0]) - wanted).max() <= 1  # where 255 times a value is a whole number
    whole = heat.whole()
    assert (np.concatenate([rows for _, rows, _ in heat.strips(13)]) == whole).all()
    assert (whole != heat.before_filter(0, size[0])).any()
    assert (SentenceHeatMap.of(size, windows, cosines, median=1).whole() == heat.before_filter(0, size[0])).all()


def test_equal_windows_stand_out_nowhere_and_places_without_a_window_are_marked():
    windows = windows_of(40, 40, (12,))
    assert not SentenceHeatMap.of((40, 40), windows, np.full(len(windows), 0.1 + 0.2), 3).whole().any()
    some = windows[windows[:, 1] == 12]
    covered = np.concatenate(
        [where for *_, where in SentenceHeatMap.of((40, 40), some, np.arange(len(some)), 3).strips()]
    )
    assert covered[:12].all() and not covered[12:].any()


def test_a_filter_without_a_middle_is_refused():
    with pytest.raises(ConfigError, match="--median 4: give an odd number"):
        SentenceHeatMap.of((40, 40), windows_of(40, 40, (12,)), np.zeros(18), 4)


# Scores


def test_scores_by_hand():
    heat = np.zeros((300, 300), np.uint8)
    heat[40:161, 40:161] = 255
    region = [[40, 40], [160, 40], [160, 160], [40, 160]]
    scores = localization_scores(heat, [region])
    assert scores.area == 121 * 121 and scores.rsu == 1.0
    assert scores.regions.tolist() == [[100, 100, 127]]  # 1.5 times half the diagonal
    assert np.abs(scores.centres - [[100, 100]]).max() <= 3  # a box filter of even side moves it
    distance = math.hypot(*(scores.centres[0] - (100, 100))) / 127
    assert math.isclose(scores.ras, (math.exp(3 * distance) - 1) / (math.exp(3) - 1))
    assert scores.rda == 1.0 and math.isclose(scores.rmi, 0.4 + 0.35 * (1 - scores.ras) + 0.25)
    elsewhere = localization_scores(heat, [[[x + 130, y + 130] for x, y in region]])
    assert elsewhere.rsu < 0.01 and (elsewhere.ras, elsewhere.rda) == (1.0, 0.0)
    assert mean_sentence_scores([scores, elsewhere])["Rda"] == 0.5


def test_a_map_that_is_the_same_everywhere_has_rsu_by_chance():
    assert localization_scores(np.full((60, 60), 90, np.uint8), [SQUARE]).rsu == pytest.approx(1 - math.exp(-0.707))


def test_overlapping_regions_are_a_union_and_with_even_odd_have_a_hole():
    other = [[20, 20], [40, 20], [40, 40], [20, 40]]
    union, hole = (region_mask((60, 60), [SQUARE, other], even_odd) for even_odd in (False, True))
    assert union[25, 25] and not hole[25, 25] and union.sum() == 2 * 21 * 21 - 11 * 11


def test_regions_without_area_are_refused():
    heat = np.full((60, 60), 255, np.uint8)
    outside = [[x + 90, y] for x, y in SQUARE]
    for regions, why in (([], "no region"), ([[[5, 5]] * 3], "no area"), ([outside], "outside")):
        with pytest.raises(DataError, match=why):
            localization_scores(heat, regions)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({}, "not a list"),
        ([], "not a list"),
        ([3], "not of the form"),
        ([{"jpg_name": "a.jpg", "points": [SQUARE]}], "no caption"),
        ([{"jpg_name": "", "caption": "a", "points": [SQUARE]}], "no jpg_name"),
        ([{"jpg_name": "a.jpg", "caption": "a", "points": []}], "no points"),
        ([{"jpg_name": "a.jpg", "caption": "a", "points": [[[1, 2], [3, 4]]]}], "is not a polygon"),
        ([{"jpg_name": "a.jpg", "caption": "a", "points": [[[1, 2], [3, 4], [5, 1e30]]]}], "is not a polygon"),
        ([{"jpg_name": "a.jpg", "caption": "a", "points": [[[1, 2], [3, 4], ["5", True]]]}], "is not a polygon"),
    ],
)
def test_an_annotation_of_another_form_is_one_line(tmp_path, content, why):
    (tmp_path / "anno.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=why) as refused:
        read_annotation(tmp_path / "anno.json")
    assert "anno.json" in str(refused.value)


# From a raster to a map


@pytest.fixture
def harbour(write_raster, tmp_path):
    """A raster of 48 x 64 pixels, its lower right blue."""
    values = np.full((3, 48, 64), 200, np.uint8)
    values[:2, 24:, 32:] = 20
    return write_raster(tmp_path / "harbour.tif", values)


def test_the_map_of_a_raster_keeps_its_place_and_that_of_its_index_is_equal(harbour, small_clip_spec, tmp_path):
    pytest.importorskip("faiss")
    from vladapt.core.engine.index import index
    from vladapt.core.recipes.resolve import resolve

    options = {"text": "blue water", "median": 5}
    made = localize(harbour, tmp_path / "map.tif", HeatMapOptions(sides=(16, 24), **options), backbone=small_clip_spec)
    flags = {"domain": "remote-sensing", "backbone": small_clip_spec, "data.window_sides": "16,24"}
    index(resolve(recipe=None, config=None, sets=(), flags=flags), tmp_path / "windows.index", images=[harbour])
    localize(tmp_path / "windows.index", tmp_path / "again.tif", HeatMapOptions(**options))
    with (
        rasterio.open(harbour) as raster,
        rasterio.open(tmp_path / "map.tif") as one,
        rasterio.open(tmp_path / "again.tif") as other,
    ):
        assert (one.crs, one.transform, one.shape) == (raster.crs, raster.transform, raster.shape)
        assert one.descriptions == ("blue water",) and one.dtypes == ("uint8",)
        heat = one.read(1).astype(int)
        assert heat.max() > 200 and np.abs(heat - other.read(1)).max() <= 1
    assert made.found[0].scores is None
    with pytest.raises(ConfigError, match="omit --sides"):
        localize(tmp_path / "windows.index", tmp_path / "again.tif", HeatMapOptions(sides=(16,), **options))


def test_an_annotation_scores_each_sentence_and_text_chooses_one(harbour, small_clip_spec, tmp_path):
    field = f"{'f' * 251}.png"  # as long as a name may be
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / field)
    entries = [("harbour.tif", "boats"), ("harbour.tif", "water"), (field, "a field")]
    content = [{"jpg_name": name, "caption": caption, "points": [SQUARE]} for name, caption in entries]
    (tmp_path / "anno.json").write_text(json.dumps(content))
    options = {"annotation": tmp_path / "anno.json", "sides": (16,), "median": 3}
    tower = {"backbone": small_clip_spec}
    every = localize(tmp_path, tmp_path / "maps", HeatMapOptions(**options), **tower).found
    assert [(each.image.name, each.text) for each in every] == entries
    assert len({each.map for each in every}) == 3 and all(each.map.is_file() for each in every)
    one = localize(harbour, tmp_path / "one.png", HeatMapOptions(text="water", **options), **tower).found
    assert len(one) == 1 and one[0].scores.metrics() == every[1].scores.metrics()
    for source, wrong, why in (
        (harbour, {"text": "cars"}, "has no caption 'cars'"),
        (tmp_path / "none.tif", {}, "no such file"),
    ):
        with pytest.raises(DataError, match=why):
            localize(source, tmp_path / "maps", HeatMapOptions(**options, **wrong), **tower)
    with pytest.raises(ConfigError, match="asks for 2 maps"):
        localize(harbour, tmp_path / "one.tif", HeatMapOptions(**options), **tower)

"""Maps compared with a reference: points, areas and rasters, in any coordinates."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from vladapt.core.errors import DataError
from vladapt.domains.remote_sensing.maps import reference
from vladapt.domains.remote_sensing.maps.accuracy import map_accuracy
from vladapt.domains.remote_sensing.rasters import header_of

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")

NAMES = ("red", "green", "blue")
LEFT, TOP, METRES = 500_000.0, 5_000_000.0, 10.0


@pytest.fixture
def land(write_raster):
    """48 x 60 pixels: red in the west, green, and blue in the east, 20 columns each."""
    values = np.full((3, 48, 60), 5, np.uint8)
    for number in range(3):
        values[number, :, 20 * number : 20 * number + 20] = 240
    return write_raster("land.tif", values)


@pytest.fixture
def write_layer(tmp_path):
    def write(name, shapes, labels, crs="EPSG:32633"):
        pyogrio.raw.write(
            tmp_path / name,
            shapely.to_wkb(np.array(shapes)),
            field_data=[np.array(labels, dtype=object)],
            fields=["class"],
            geometry_type=shapes[0].geom_type,
            crs=crs,
        )
        return tmp_path / name

    return write


def at(column, row):
    return LEFT + METRES * column, TOP - METRES * row


def stripe(first, last):
    return shapely.box(*at(first, 48), *at(last, 0))


def accuracy_of(tmp_path):
    return json.loads((tmp_path / "map_accuracy.json").read_text())


def test_points_are_the_sample(make_maps, land, write_layer, tmp_path):
    places = [(3.5, 3.5, "Red"), (5.5, 40.5, "red"), (10.5, 20.5, "green"), (30.5, 9.5, "green"), (25.5, 9.5, "green")]
    places += [(50.5, 9.5, "blue"), (55.5, 9.5, "blue"), (52.5, 30.5, "red"), (900, 9, "red")]
    layer = write_layer("truth.gpkg", [shapely.Point(*at(x, y)) for x, y, _ in places], [name for *_, name in places])
    made = make_maps([land], ["map.tif"], window=4, overlap=0.0, reference=layer)
    told, matrix = accuracy_of(tmp_path), [[2, 1, 0], [0, 2, 0], [1, 0, 2]]
    assert told["classes"] == list(NAMES) and told["error_matrix"] == matrix
    with rasterio.open(tmp_path / "map.tif") as raster:
        areas = 100.0 * np.bincount(raster.read(1).ravel(), minlength=4)[1:]
    wanted = map_accuracy(NAMES, np.array(matrix), areas)
    assert told["overall_accuracy"]["value"] == pytest.approx(float(wanted.overall.value))
    assert told["estimated_area"]["half_width_95"] == pytest.approx((wanted.shares.half_width * areas.sum()).tolist())
    assert [fact["users_accuracy"] for fact in made.facts] == pytest.approx(wanted.users.value.tolist())
    assert any("8 points of truth.gpkg" in note for note in made.notes)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_pixels_are_drawn_where_the_reference_covers_areas(make_maps, land, write_layer, tmp_path, monkeypatch, crs):
    """A quarter of the true green is red on the map, for the reference's border lies five columns to the west."""
    monkeypatch.setattr(reference, "PER_CLASS", 400)
    shapes = [stripe(0, 15), stripe(15, 40), stripe(40, 60)]
    if crs != "EPSG:32633":

        def to_degrees(xy):
            return np.column_stack(rasterio.warp.transform("EPSG:32633", crs, *xy.T))

        shapes = list(shapely.transform(shapely.segmentize(shapes, 50.0), to_degrees))
    layer = write_layer("truth.geojson", shapes, NAMES, crs)
    make_maps([land], ["map.tif"], window=4, overlap=0.0, reference=layer)
    told = accuracy_of(tmp_path)
    assert [sum(row) for row in told["error_matrix"]] == [400, 400, 400]
    assert told["users_accuracy"]["value"] == pytest.approx([0.75, 1, 1], abs=0.07)
    assert told["estimated_share"]["value"] == pytest.approx([0.25, 5 / 12, 1 / 3], abs=0.025)
    low, high = (
        told["estimated_share"]["value"][1] + side * told["estimated_share"]["half_width_95"][1] for side in (-1, 1)
    )
    assert low < 5 / 12 < high


def test_a_draw_is_uniform_over_the_pixels_of_a_class(make_maps, land, write_layer, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "PER_CLASS", 100)
    halves = [shapely.box(*at(0, 48), *at(60, 24)), shapely.box(*at(0, 24), *at(60, 0))]
    made = make_maps([land], ["map.tif"], window=4, overlap=0.0)
    tally = SimpleNamespace(areas=np.array([fact["area_m2"] for fact in made.facts]))
    laid = reference.Reference.open(write_layer("truth.gpkg", halves, NAMES[:2]), header_of([land]), land, NAMES)
    draws = [reference.assess(laid, tmp_path / "map.tif", NAMES, tally, seed)[0].matrix for seed in range(6)]
    assert len({draw.tobytes() for draw in draws}) == 6
    share = sum(draw[:, 0].sum() for draw in draws) / 1800
    assert share == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(1800))


def test_a_raster_of_the_maps_numbers_is_a_reference(make_maps, land, write_raster, tmp_path):
    truth = np.zeros((1, 96, 120), np.uint8)  # of half the pixel size, nothing known in the north
    for number in range(3):
        truth[0, 40:, 40 * number : 40 * number + 40] = number + 1
    layer = write_raster("truth.tif", truth, metres=5.0)
    make_maps([land], ["map.tif"], window=4, overlap=0.0, reference=layer)
    told = accuracy_of(tmp_path)
    assert np.array_equal(told["error_matrix"], np.diag([20 * 28] * 3))
    assert told["overall_accuracy"] == {"value": 1.0, "half_width_95": 0.0}
    bad = write_raster("bad.tif", truth * 2, metres=5.0)
    with pytest.raises(DataError, match=r"bad\.tif: has the value 4; a reference raster has the map's numbers, 1 to 3"):
        make_maps([land], ["other.tif"], reference=bad)


def test_a_reference_that_does_not_fit_is_one_line_before_anything_is_scored(
    make_maps, land, write_layer, write_raster
):
    far = write_layer("far.gpkg", [shapely.box(7e5, 4e6, 7.1e5, 4.1e6)], ["red"])
    other = write_layer("other.gpkg", [stripe(0, 9)], ["water"])
    raster = write_raster("far.tif", np.ones((1, 8, 8), np.uint8), left=700_000)
    for layer, words in (
        (far, r"far\.gpkg: lies elsewhere on earth than land\.tif"),
        (raster, r"far\.tif: lies elsewhere on earth than land\.tif"),
        (other, r"other\.gpkg: class 'water' is not one of the map's \(red, green, blue\)"),
    ):
        with pytest.raises(DataError, match=words):
            make_maps([land], ["map.tif"], reference=layer)


def test_of_several_rasters_a_reference_need_not_reach_all(make_maps, land, write_layer, write_raster, tmp_path):
    other = write_raster("other.tif", np.full((3, 20, 20), 9, np.uint8), left=900_000.0)
    layer = write_layer("truth.gpkg", [stripe(0, 20), stripe(20, 40), stripe(40, 60)], NAMES)
    made = make_maps([land, other], ["maps", "facts.csv"], window=4, overlap=0.0, reference=layer)
    assert (tmp_path / "maps" / "land_accuracy.json").is_file()
    assert not (tmp_path / "maps" / "other_accuracy.json").exists()
    assert [fact["users_accuracy"] for fact in made.facts] == [1, 1, 1, None, None, None]
    assert any(note.startswith("other: ") and "lies elsewhere on earth" in note for note in made.notes)
    with pytest.raises(DataError, match="lies elsewhere"):
        make_maps([other], ["other_map.tif"], reference=layer)


def test_a_reference_of_what_has_no_value_gives_no_accuracy(make_maps, write_layer, write_raster, tmp_path):
    values = np.full((3, 48, 60), 200, np.uint8)
    values[:, :, :30] = 0
    half = write_raster("half.tif", values, nodata=0)
    made = make_maps([half], ["map.tif"], reference=write_layer("truth.gpkg", [stripe(0, 20)], ["red"]))
    assert any("truth.gpkg has no class where half.tif has a value" in note for note in made.notes)
    assert not (tmp_path / "map_accuracy.json").exists() and made.facts[0]["users_accuracy"] is None


def test_a_class_that_the_reference_does_not_reach_is_told(make_maps, land, write_layer, tmp_path):
    layer = write_layer("truth.gpkg", [stripe(0, 18), stripe(22, 38)], NAMES[:2])
    made = make_maps([land], ["map.tif"], window=4, overlap=0.0, reference=layer)
    assert accuracy_of(tmp_path)["unsampled"] == ["blue"]
    assert any("the reference has no class where the map has blue" in note for note in made.notes)

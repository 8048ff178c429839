"""Maps of rasters: what is written, resumed, refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.contracts.items import Item
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing.maps import mapping, page, rasters, scores
from vladapt.domains.remote_sensing.maps import work as moving
from vladapt.domains.remote_sensing.maps.blending import window_weights
from vladapt.domains.remote_sensing.windows import Cutting, window_boxes

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")

NAMES = ("red", "green", "blue")


def read(file):
    with rasterio.open(file) as raster:
        return raster.read(1)


def by_hand(values, there, window, overlap):
    """Classes from 1 and per cent of each pixel, all windows at once."""
    height, width = there.shape
    cutting = Cutting(window, overlap)
    side = min(window, height), min(window, width)
    weights = window_weights(side, cutting.stride)
    sums, total = np.zeros((3, height, width)), np.zeros((height, width))
    for left, top, wide, high in window_boxes(height, width, cutting):
        place = slice(top, top + high), slice(left, left + wide)
        if there[place].any():
            means = np.where(there[place], values[(slice(None), *place)], 0).reshape(3, -1).mean(axis=1) + 1
            sums[(slice(None), *place)] += weights * (means / means.sum())[:, None, None]
            total[place] += weights
    shares = sums / np.maximum(total, 1e-12)
    return np.where(there, shares.argmax(axis=0) + 1, 0), np.where(there, 100 * shares.max(axis=0), 255)


@pytest.mark.parametrize("pixels", [1, 900, 4_000_000])  # pieces of one window, of some, and one piece
def test_a_map_is_the_windows_blended_where_the_raster_has_values(
    make_maps, write_raster, patches, tmp_path, monkeypatch, pixels, colours
):
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", pixels)
    monkeypatch.setattr(rasters, "COLUMNS_AT_ONCE", 23)
    monkeypatch.setattr(rasters, "STRIP_PIXELS", 400)
    values = patches(61, 77)
    values[:, 10:40, 5:33] = 0
    made = make_maps([write_raster("land.tif", values, nodata=0)], ["map.tif"])
    there = (values > 0).all(axis=0)
    wanted, per_cent = by_hand(values, there, 16, 0.25)
    assert np.array_equal(read(tmp_path / "map.tif"), wanted)
    assert abs(read(tmp_path / "map_scores.tif").astype(float) - per_cent).max() <= 0.51
    assert [fact["pixels"] for fact in made.facts] == np.bincount(wanted.ravel())[1:].tolist()
    assert [fact["class"] for fact in made.facts] == list(NAMES)
    assert sum(fact["area_m2"] for fact in made.facts) == pytest.approx(100 * there.sum())
    for number, fact in enumerate(made.facts, start=1):
        assert fact["score"] == pytest.approx(per_cent[wanted == number].mean() / 100, abs=0.005)


def test_the_map_of_a_palette_is_that_of_its_colours(make_maps, write_raster, patches, tmp_path):
    values = patches(45, 50)
    table, places = np.unique(values.reshape(3, -1).T, axis=0, return_inverse=True)
    palette = {n: (*map(int, colour), 255) for n, colour in enumerate(table)}
    places = places.reshape(1, 45, 50).astype(np.uint16)
    make_maps([write_raster("colours.tif", values)], ["colours_map.tif"])
    make_maps([write_raster("palette.tif", places, palette=palette, photometric="palette")], ["palette_map.tif"])
    assert np.array_equal(read(tmp_path / "palette_map.tif"), read(tmp_path / "colours_map.tif"))
    assert len(np.unique(read(tmp_path / "palette_map.tif"))) > 1


def test_both_rasters_are_cloud_optimised_on_the_grid_of_theirs(make_maps, write_raster, patches, tmp_path):
    source = write_raster("land.tif", patches(600, 700), crs="EPSG:3035", left=4_321_000.0, top=3_210_000.0)
    make_maps([source], ["map.tif"], window=64)
    for name, nodata in (("map.tif", 0), ("map_scores.tif", 255)):
        with rasterio.open(source) as one, rasterio.open(tmp_path / name) as other:
            assert (one.crs, one.transform, one.shape) == (other.crs, other.transform, other.shape)
            assert other.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and other.overviews(1)
            assert other.nodata == nodata and other.dtypes == ("uint8",)
    with rasterio.open(tmp_path / "map.tif") as of_class:
        assert of_class.colorinterp[0].name == "palette"
        table = of_class.colormap(1)
        assert len({table[number] for number in range(4)}) == 4
        assert [of_class.tags(1)[f"CLASS_{number}"] for number in (1, 2, 3)] == list(NAMES)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 40), (40, 9), (16, 16)])
def test_rasters_smaller_than_a_window_are_mapped(make_maps, write_raster, patches, tmp_path, height, width):
    values = patches(height, width)
    make_maps([write_raster("small.tif", values)], ["map.tif"])
    wanted, _ = by_hand(values, np.ones((height, width), bool), 16, 0.25)
    assert np.array_equal(read(tmp_path / "map.tif"), wanted)


# regions --------------------------------------------------------------------------------------------------------------


def test_regions_are_the_connected_pixels_of_a_class(make_maps, write_raster, patches, tmp_path):
    values = patches(61, 77)
    values[:, :9, :9] = 0
    make_maps([write_raster("land.tif", values, nodata=0)], ["map.tif"])
    of_class, of_score = read(tmp_path / "map.tif"), read(tmp_path / "map_scores.tif")
    meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "map.gpkg")
    assert meta["crs"] == "EPSG:32633" and list(meta["fields"]) == ["class", "score", "area_m2"]
    shapes = shapely.from_wkb(shapes)
    np.testing.assert_allclose(shapely.area(shapes), columns[2])
    burnt = np.zeros_like(of_class)
    with rasterio.open(tmp_path / "map.tif") as raster:
        for shape, name, score in zip(shapes, columns[0], columns[1]):
            inside = rasterio.features.rasterize([shape], of_class.shape, transform=raster.transform) > 0
            assert (of_class[inside] == NAMES.index(name) + 1).all() and not burnt[inside].any()
            assert score == pytest.approx(of_score[inside].mean() / 100, abs=1e-4)
            burnt[inside] = 1
    assert np.array_equal(burnt > 0, of_class > 0)


def test_geojson_lies_in_wgs_84_and_says_the_same(make_maps, write_raster, patches, tmp_path):
    make_maps([write_raster("land.tif", patches(40, 40))], ["map.gpkg", "regions.geojson"])
    meta, _, shapes, columns = pyogrio.raw.read(tmp_path / "regions.geojson")
    _, _, planar, beside = pyogrio.raw.read(tmp_path / "map.gpkg")
    assert meta["crs"] == "EPSG:4326" and [list(each) for each in columns] == [list(each) for each in beside]
    for shape, own in zip(shapely.from_wkb(shapes), shapely.from_wkb(planar)):
        x, y = rasterio.warp.transform("EPSG:4326", "EPSG:32633", *shapely.get_coordinates(shape).T)
        assert shapely.hausdorff_distance(shapely.Polygon(np.column_stack([x, y])), own) < 0.05
        assert shapely.is_ccw(shape.exterior)
    assert not (tmp_path / "map.tif").exists()


def zone(south: float, north: float) -> float:
    """Square metres of WGS 84 between two parallels, per degree of longitude (the closed form of the ellipsoid)."""
    a, f = 6_378_137.0, 1 / 298.257223563
    e = np.sqrt(f * (2 - f))

    def to_equator(latitude):
        sine = np.sin(np.radians(latitude))
        return sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e

    return np.radians(1) * a**2 * (1 - e**2) / 2 * (to_equator(north) - to_equator(south))


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_areas_are_geodesic_where_the_coordinates_are_no_lengths(make_maps, write_raster, patches, tmp_path, crs):
    place = {"EPSG:4326": (0.01, 20.0, 60.0), "EPSG:3857": (1000.0, 2_200_000.0, 8_400_000.0)}[crs]
    source = write_raster("land.tif", patches(50, 60), crs, *place)
    made = make_maps([source], ["map.gpkg"])
    step, left, top = place
    corners = [left, left + 60 * step], [top, top - 50 * step]
    (west, east), (north, south) = rasterio.warp.transform(crs, "EPSG:4326", *corners)
    wanted = zone(south, north) * (east - west)
    assert sum(fact["area_m2"] for fact in made.facts) == pytest.approx(wanted, rel=1e-6)
    assert pyogrio.raw.read(tmp_path / "map.gpkg")[3][2].sum() == pytest.approx(wanted, rel=1e-6)
    assert any("geodesic" in note for note in made.notes)


# stopped and begun again ----------------------------------------------------------------------------------------------


def test_a_map_that_was_stopped_goes_on_and_is_the_same(
    make_maps, write_raster, patches, tmp_path, monkeypatch, colours
):
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 900)
    values = patches(90, 90)
    values[:, 50:70, 20:30] = 0
    source = write_raster("land.tif", values, nodata=0)
    with pytest.raises(KeyboardInterrupt):
        make_maps([source], ["map.tif"], scorer=colours(fails=5))
    (work,) = (tmp_path / ".resume").iterdir()
    assert len(list(work.glob("windows-*"))) == 5 and not (tmp_path / "map.tif").exists()
    (work / "map.gpkg").write_bytes(b"half")  # as a killed process leaves it
    (work / "windows-0-0.safetensors").write_bytes(b"damaged")
    second, whole = colours(), colours()
    make_maps([source], ["map.tif"], scorer=second)
    make_maps([source], ["all.tif"], scorer=whole)
    assert second.calls == whole.calls - 4 and not (tmp_path / ".resume").exists()
    for suffix in (".tif", "_scores.tif", ".geojson"):
        assert (tmp_path / f"map{suffix}").read_bytes() == (tmp_path / f"all{suffix}").read_bytes()


def test_other_windows_and_other_rasters_do_not_go_on_from_there(
    make_maps, write_raster, patches, monkeypatch, colours
):
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 900)
    source = write_raster("land.tif", patches(60, 60))
    with pytest.raises(KeyboardInterrupt):
        make_maps([source], ["map.tif"], scorer=colours(fails=3))
    again, other = colours(), colours()
    make_maps([source], ["map.tif"], overlap=0.5, scorer=again)
    assert again.pictures == len(window_boxes(60, 60, Cutting(16, 0.5)))
    changed = write_raster("land.tif", patches(60, 60, seed=1))
    make_maps([changed], ["other.tif"], scorer=other)
    assert other.pictures == len(window_boxes(60, 60, Cutting(16, 0.25)))


def test_a_raster_that_was_only_touched_goes_on_and_one_in_its_place_does_not(
    make_maps, write_raster, put_in_place, patches, monkeypatch, colours
):
    monkeypatch.setattr(scores, "PIXELS_AT_ONCE", 900)
    source, stranger = write_raster("land.tif", patches(60, 60)), write_raster("other.tif", patches(60, 60, seed=1))
    for wanted, change in ((3, lambda: os.utime(source, (0, 0))), (0, lambda: put_in_place(stranger, source))):
        with pytest.raises(KeyboardInterrupt):
            make_maps([source], [f"map-{wanted}.tif"], scorer=colours(fails=3))
        change()
        whole, again = colours(), colours()
        make_maps([source], [f"map-{wanted}.tif"], scorer=again)
        make_maps([source], [f"whole-{wanted}.tif"], scorer=whole)
        assert again.calls == whole.calls - wanted


def test_a_failure_leaves_nothing_where_nothing_was_scored(make_maps, write_raster, patches, tmp_path, colours):
    with pytest.raises(KeyboardInterrupt):
        make_maps([write_raster("land.tif", patches(20, 20))], ["maps"], scorer=colours(fails=0))
    assert [file.name for file in tmp_path.iterdir()] == ["land.tif"]


def test_a_full_disk_leaves_no_file_half_written(make_maps, write_raster, patches, tmp_path, monkeypatch, colours):
    def refuse(made, target):
        if target.name == "map_scores.tif":
            raise DataError(f"{target.parent}: cannot be written there (No space left on device); free some space")
        made.replace(target)

    monkeypatch.setattr(moving, "_move", refuse)
    with pytest.raises(DataError, match="No space left"):
        make_maps([write_raster("land.tif", patches(20, 20))], ["map.tif"])
    assert not list(tmp_path.glob("map*"))
    monkeypatch.undo()
    again = colours()
    make_maps([tmp_path / "land.tif"], ["map.tif"], scorer=again)
    assert (tmp_path / "map.tif").exists() and again.calls == 0


def test_maps_that_a_killed_process_was_moving_are_made_again(
    make_maps, write_raster, patches, tmp_path, colours, killed_while_moving
):
    sources, folder = [write_raster(f"{name}.tif", patches(20, 20)) for name in "ab"], tmp_path / "maps"
    (moved,) = killed_while_moving(lambda: make_maps(sources, ["maps"]), folder)
    assert moved.exists() and not (folder / "b.html").exists()
    with pytest.raises(ConfigError, match="already exists"):
        make_maps(sources, ["maps"], overlap=0.5)
    again = colours()
    made = make_maps(sources, ["maps"], scorer=again)
    assert again.calls == 0 and sorted(made.files) == sorted(folder.iterdir())
    with pytest.raises(ConfigError):
        make_maps(sources, ["maps"])


# several rasters, and what cannot be mapped ---------------------------------------------------------------------------


def test_each_raster_of_a_folder_gets_its_maps_in_its_own_coordinates(make_maps, write_raster, patches, tmp_path):
    write_raster("in/a.tif", patches(20, 30))
    write_raster("in/b.tif", patches(30, 20, seed=1), crs="EPSG:3035", left=4e6, top=3e6)
    write_raster("in/sub/a.tif", patches(20, 20))
    write_raster("in/empty.tif", np.zeros((3, 20, 20), np.uint8), nodata=0)
    whole = write_raster("in/short.tif", patches(200, 200)).read_bytes()
    (tmp_path / "in" / "short.tif").write_bytes(whole[: len(whole) // 2])
    made = make_maps([tmp_path / "in"], ["maps"])
    kinds = (".tif", "_scores.tif", ".gpkg", ".geojson", ".html")
    names = {f"{name}{kind}" for name in ("a", "a_2", "b") for kind in kinds}
    assert {file.name for file in (tmp_path / "maps").iterdir()} == names == {file.name for file in made.files}
    assert {fact["raster"] for fact in made.facts} == {"a", "a_2", "b"} and len(made.facts) == 9
    with rasterio.open(tmp_path / "maps" / "b.tif") as raster:
        assert raster.crs == "EPSG:3035" and raster.shape == (30, 20)
    left_out = {name.rpartition("/")[2]: why for name, why in made.skipped}
    assert "no pixel of it has a value" in left_out["empty.tif"] and "ends early" in left_out["short.tif"]


def test_several_rasters_share_a_page_and_names_that_meet_are_refused(make_maps, write_raster, patches, tmp_path):
    files = [write_raster(f"in/{name}.tif", patches(20, 20)) for name in ("a", "b", "a_scores")]
    made = make_maps(files[:2], ["both.html", "facts.csv"])
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert text.count('class="classes"') == 2 and text.index("<h2>a</h2>") < text.index("<h2>b</h2>")
    assert {file.name for file in made.files} == {"both.html", "facts.csv"} and len(made.facts) == 6
    with pytest.raises(ConfigError, match=r"a_scores\.tif: would be written twice"):
        make_maps(files, ["maps"])


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (["map.png"], r"map\.png: maps are not written as files of that kind; give \.tif"),
        (["map.tif", "other.tif"], "2 files of that kind"),
        (["there.tif"], r"there\.tif: already exists"),
        (["beside.tif"], r"beside_scores\.tif: already exists"),
        (["land.tif"], r"land\.tif: already exists"),
    ],
)
def test_places_that_no_map_can_be_written_to_are_one_line(
    make_maps, write_raster, patches, tmp_path, out, words, colours
):
    source = write_raster("land.tif", patches(20, 20))
    for name in ("there.tif", "beside_scores.tif"):
        (tmp_path / name).write_bytes(b"mine")
    before = sorted(tmp_path.iterdir())
    model = colours()
    if out == ["map.png"]:  # `predict` takes a suffix that it does not know for a folder
        from types import SimpleNamespace

        use = SimpleNamespace(out=tmp_path / "map.png", files=())
        with pytest.raises(ConfigError, match=words):
            mapping._check_places(use, [], False)
        return
    with pytest.raises(ConfigError, match=words):
        make_maps([source], out, scorer=model)
    assert sorted(tmp_path.iterdir()) == before and model.calls == 0


def test_maps_of_the_longest_names_have_names_of_their_own():
    rasters = [Item(f"{folder}/{'x' * 251}.tif", Path(folder, f"{'x' * 251}.tif")) for folder in "ab"]
    names = list(mapping._named(rasters))
    assert len(set(names)) == 2 and all(len(f"{name}_accuracy.json") < 255 for name in names)


def test_two_rasters_need_a_folder(make_maps, write_raster, patches):
    files = [write_raster(name, patches(20, 20)) for name in ("a.tif", "b.tif")]
    with pytest.raises(ConfigError, match=r"map\.gpkg: one file for 2 rasters; give a folder"):
        make_maps(files, ["map.gpkg"])


def test_rasters_that_cannot_be_mapped_are_one_line(make_maps, write_raster, patches, tmp_path):
    empty = write_raster("empty.tif", np.zeros((3, 20, 20), np.uint8), nodata=0)
    with pytest.raises(DataError, match=r"empty\.tif: nothing to map, no pixel of it has a value"):
        make_maps([empty], ["map.tif"])
    whole = write_raster("short.tif", patches(200, 200)).read_bytes()
    (tmp_path / "short.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"short\.tif: ends early or is damaged"):
        make_maps([tmp_path / "short.tif"], ["map.tif"])
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"photo\.png: not a raster, which a map needs"):
        make_maps([tmp_path / "photo.png"], ["map.tif"])
    assert not list(tmp_path.glob("map*"))


def test_a_raster_without_crs_is_mapped_in_pixels(make_maps, write_raster, patches, tmp_path):
    source = write_raster("land.tif", patches(40, 40), crs=None)
    made = make_maps([source], ["map.tif"])
    assert any("has no CRS" in note for note in made.notes) and not (tmp_path / "map.geojson").exists()
    assert all(fact["area_m2"] is None for fact in made.facts)
    meta, _, _, columns = pyogrio.raw.read(tmp_path / "map.gpkg")
    assert list(meta["fields"])[2] == "pixels" and columns[2].sum() == 1600
    with pytest.raises(ConfigError, match=r"land\.tif has no CRS, and GeoJSON is in WGS 84"):
        make_maps([source], ["regions.geojson"])


# the page -------------------------------------------------------------------------------------------------------------


def test_a_page_needs_nothing_beside_it_and_is_bounded(make_maps, write_raster, patches, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_SIDE", 32)
    source = write_raster("a&<b>.tif", patches(61, 77))
    made = make_maps([source], ["map.html"])
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert "a&amp;&lt;b&gt;" in text and "a&<b>" not in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|https?://|@import""", text)
    assert all(name in text for name in NAMES) and 'type="range"' in text
    assert 'data-width="26" data-height="21"' in text and "3 x 3 pixels of the raster" in text
    assert any("one pixel of 3 x 3" in note for note in made.notes)
    assert [file.name for file in made.files] == ["map.html"]


def test_rows_of_facts_go_with_a_map(make_maps, write_raster, patches, tmp_path):
    made = make_maps([write_raster("land.tif", patches(20, 20))], ["map.tif", "facts.csv", "facts.jsonl"])
    header, *rows = (tmp_path / "facts.csv").read_text().splitlines()
    assert header.split(",") == list(made.facts[0]) and len(rows) == 3
    assert len((tmp_path / "facts.jsonl").read_text().splitlines()) == 3

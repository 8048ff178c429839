"""Large rasters as windows, labelled by layers; splits by place."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from vladapt.core.contracts.items import DomainData
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.places import item_place, metres_per_pixel
from vladapt.domains.remote_sensing.rasters import header_of
from vladapt.domains.remote_sensing.windows import Cutting, starts_of_windows, window_boxes
from vladapt.testing import check_domain

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")

HOW = {"window_size": 16, "overlap": 0.25, "block_size": 320.0}
"""Pixels are 10 m: blocks of 32 pixels."""


@pytest.fixture
def write_layer(tmp_path):
    """write_layer("l.gpkg", [(geometry, "wheat"), ...], crs="EPSG:32633", column="label")."""

    def write(name, shapes, crs="EPSG:32633", column="label"):
        geometries = np.array([geometry for geometry, _ in shapes])
        kinds = set(shapely.get_type_id(geometries).tolist())
        kind = {0: "Point", 3: "Polygon"}.get(kinds.pop() if len(kinds) == 1 else -1, "Unknown")
        file = tmp_path / name
        pyogrio.raw.write(
            file,
            shapely.to_wkb(geometries),
            field_data=[np.array([label for _, label in shapes], dtype=object)],
            fields=[column],
            geometry_type=kind,
            crs=crs,
        )
        return file

    return write


@pytest.fixture
def field(write_raster, write_layer):
    """A raster of 96 x 96 pixels of 10 m: wheat in the west, maize in the east."""
    stored = np.random.default_rng(0).integers(1, 255, (3, 96, 96)).astype(np.uint8)
    raster = write_raster("field/field.tif", stored, tiled=True, blockxsize=16, blockysize=16)
    west, east = (
        shapely.box(500_000, 4_999_040, 500_480, 5_000_000),
        shapely.box(500_480, 4_999_040, 500_960, 5_000_000),
    )
    return raster, write_layer("labels.gpkg", [(west, "wheat"), (east, "maize")])


def read(path, layer, **options):
    return RemoteSensing().read(path, "classification", labels=str(layer), **{**HOW, **options})


# cutting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "size", "stride"), [(100, 16, 12), (96, 16, 16), (16, 16, 12), (17, 16, 12)])
def test_windows_cover_all_and_end_where_the_raster_ends(length, size, stride):
    begins = starts_of_windows(length, size, stride)
    assert begins[0] == 0 and begins[-1] + size == length and sorted(set(begins)) == begins
    assert all(second - first <= stride for first, second in pairwise(begins))


def test_a_raster_smaller_than_a_window_is_one():
    assert window_boxes(10, 12, Cutting(size=16)) == [(0, 0, 12, 10)]


def test_windows_are_what_rasterio_reads_there(field):
    raster, layer = field
    data = read(raster, layer)
    with rasterio.open(raster) as source:
        for item in data.items[::7]:
            left, top, wide, high = item.decode["window"]
            there = source.read(window=rasterio.windows.Window(left, top, wide, high))
            assert np.array_equal(data.load(item), there.transpose(1, 2, 0))


def test_every_window_keeps_where_it_lies(field):
    raster, layer = field
    item = read(raster, layer).items[-1]
    left, top, wide, high = item.decode["window"]
    place = item_place(item)
    assert place.crs == header_of([raster]).crs and place.size == (high, wide)
    assert place.transform == (10, 0, 500_000 + 10 * left, 0, -10, 5_000_000 - 10 * top)
    with rasterio.open(raster) as source:
        assert place.transform == tuple(source.window_transform(rasterio.windows.Window(left, top, wide, high)))[:6]
    longitude, latitude = place.centre
    assert 14.99 < longitude < 15.02 and 45.1 < latitude < 45.2


# labels ---------------------------------------------------------------------------------------------------------------


def test_polygons_give_each_window_the_class_that_covers_most_of_it(field):
    data = read(*field)
    assert data.class_names == ("maize", "wheat") and len(data.items) > 40
    for item in data.items:
        middle = item.decode["window"][0] + 8
        assert data.class_names[item.target.index] == ("wheat" if middle <= 48 else "maize")


def test_windows_that_no_class_covers_enough_are_left_out(field, write_layer):
    raster, _ = field
    small = write_layer(
        "small.gpkg",
        [(shapely.box(500_000, 4_999_800, 500_200, 5_000_000), "pond")] * 1
        + [(shapely.box(500_400, 4_999_040, 500_960, 5_000_000), "field")],
    )
    half, whole = read(raster, small), read(raster, small, min_share=1.0)
    assert len(whole.items) < len(half.items) < len(read(*field).items)
    assert any("covers by 100%, left out" in note for note in whole.notes)


@pytest.mark.parametrize(
    ("name", "crs"), [("l.geojson", "EPSG:4326"), ("l.shp", "EPSG:32633"), ("l.gpkg", "EPSG:3857")]
)
def test_layers_of_other_kinds_and_coordinates_say_the_same(field, write_layer, name, crs):
    raster, layer = field
    moved = []
    for west, label in (((500_000, 500_480), "wheat"), ((500_480, 500_960), "maize")):
        ring = np.array(shapely.box(west[0], 4_999_040, west[1], 5_000_000).exterior.coords)
        x, y = rasterio.warp.transform("EPSG:32633", crs, ring[:, 0], ring[:, 1])
        moved.append((shapely.Polygon(np.column_stack([x, y])), label))
    other = read(raster, write_layer(name, moved, crs=crs))
    wanted = {item.id: item.target.index for item in read(raster, layer).items}
    assert {item.id: item.target.index for item in other.items} == wanted


def test_points_get_windows_around_them(field, write_layer):
    raster, _ = field
    places = [(500_100, 4_999_900, "oak"), (500_850, 4_999_200, "pine"), (500_005, 4_999_995, "oak"), (0, 0, "oak")]
    layer = write_layer("trees.gpkg", [(shapely.Point(x, y), label) for x, y, label in places])
    data = read(raster, layer)
    assert [data.class_names[item.target.index] for item in data.items] == ["oak", "pine", "oak"]
    for item, (x, y, _) in zip(data.items, places):
        left, top, wide, high = item.decode["window"]
        assert left <= (x - 500_000) / 10 < left + wide and top <= (5_000_000 - y) / 10 < top + high
        assert (wide, high) == (16, 16)


def test_a_raster_of_classes_is_a_layer_too(field, write_raster):
    raster, layer = field
    classes = np.zeros((1, 192, 192), np.uint8)  # finer, and with nothing in the north
    classes[0, 32:, :96], classes[0, 32:, 96:] = 7, 3
    labels = write_raster("classes.tif", classes, metres=5.0, nodata=0)
    data = read(raster, labels, class_names="maize,wheat")
    assert data.class_names == ("maize", "wheat")
    by_shape = {item.id: item.target.index for item in read(raster, layer).items}
    assert data.items and all(by_shape[item.id] == item.target.index for item in data.items)
    assert read(raster, labels).class_names == ("class 3", "class 7")
    with pytest.raises(DataError, match="has the values 3, 7, but class_names names 3"):
        read(raster, labels, class_names="a,b,c")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"column": "label", "asked": "lable"}, "did you mean label"),
        ({"column": "height", "asked": None}, None),  # the only column of words
    ],
)
def test_the_column_of_the_class(field, write_layer, columns, words):
    raster, _ = field
    area = shapely.box(500_000, 4_999_040, 500_480, 5_000_000), shapely.box(500_480, 4_999_040, 500_960, 5_000_000)
    layer = write_layer("x.gpkg", list(zip(area, ("a", "b"))), column=columns["column"])
    if words is None:
        assert read(raster, layer).class_names == ("a", "b")
        return
    with pytest.raises(DataError, match=words):
        read(raster, layer, label_column=columns["asked"])


def test_a_layer_elsewhere_on_earth_is_one_line(field, write_layer, write_raster):
    raster, _ = field
    layer = write_layer("far.gpkg", [(shapely.box(700_000, 4_000_000, 700_500, 4_000_500), "a")])
    with pytest.raises(DataError, match=r"far\.gpkg: covers no window of field\.tif by 50%; check that it lies"):
        read(raster, layer)
    far = write_raster("far.tif", np.ones((1, 8, 8), np.uint8), left=700_000)
    with pytest.raises(DataError, match=r"far\.tif: lies elsewhere on earth than field\.tif"):
        read(raster, far)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("l.gpkg", "<OGRVRTDataSource/>", "not what its name says"),
        ("l.geojson", "<OGRVRTDataSource/>", "not what its name says"),
        ("l.geojson", '{"type": "FeatureCollection", "features": [', "damaged label layer"),
        ("l.geojson", '{"type": "FeatureCollection", "features": []}', "holds no"),
        ("l.txt", "x", "not a label layer of a known kind; known: .gpkg .shp .geojson .json"),
    ],
)
def test_layers_that_cannot_be_read_are_one_line(field, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read(field[0], tmp_path / name)


def test_a_layer_beside_the_raster_is_found_and_no_picture(field, tmp_path):
    raster, layer = field
    layer.rename(raster.parent / "labels.gpkg")
    assert len(read(raster.parent, "labels.gpkg").items) == len(read(raster, raster.parent / "labels.gpkg").items)


def test_a_raster_alone_asks_for_a_layer(field):
    with pytest.raises(DataError, match="give --labels"):
        RemoteSensing().read(field[0], "classification")


def test_new_rasters_are_cut_as_those_of_the_fit(field):
    raster, layer = field
    domain = RemoteSensing()
    data = domain.read_images([raster], labels=str(layer), **HOW)
    assert [item.decode["window"] for item in data.items] == [
        list(box) for box in window_boxes(96, 96, Cutting(16, 0.25))
    ]
    assert len(domain.read_images([raster]).items) == 1


def test_rasters_that_cannot_be_opened_are_left_out_before_they_are_cut(field, write_raster):
    raster, layer = field
    other = write_raster("field/other.tif", np.full((3, 96, 96), 7, np.uint8), left=500_960.0)
    other.write_bytes(b"II*\0 cut short")
    domain, how = RemoteSensing(), {"labels": str(layer), **HOW}
    whole = domain.read(raster, "classification", **how)
    data = domain.read(raster.parent, "classification", **how)
    assert len(data.items) == len(whole.items)
    for read_again in (data, domain.read_images([raster.parent], **how), domain.read_images([raster.parent], cut=True)):
        ((name, reason),) = read_again.skipped
        assert name.endswith("other.tif") and "ends early or is damaged" in reason
    sides = domain.read_images([raster.parent], window_sides=(32,))
    assert sides.items and len(sides.skipped) == 1


# splits by place ------------------------------------------------------------------------------------------------------


def divided(data: DomainData, tmp_path, seed=0):
    return assign_splits(data, seed=seed, hashes=FileHashes(tmp_path / "cache"))


def test_blocks_lie_on_one_side_and_their_windows_do_not_overlap_others(field, tmp_path):
    data = read(*field)
    assert data.blocks == "blocks of 320 m" and 4 <= len({item.group for item in data.items}) <= 16
    split = divided(data, tmp_path)
    sides = {}
    for item in split.items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(each) == 1 for each in sides.values()) and {"train", "test"} <= set.union(*sides.values())
    covered = {side: np.zeros((96, 96), bool) for side in ("train", "val", "test")}
    for item in split.items:
        left, top, wide, high = item.decode["window"]
        covered[item.split][top : top + high, left : left + wide] = True
    assert not (covered["train"] & covered["test"]).any() and not (covered["val"] & covered["test"]).any()


def test_rasters_of_one_grid_share_their_blocks(write_raster, write_layer):
    """The second lies over the right half of the first, as another day of it may."""
    for name, left in (("a", 500_000), ("b", 500_480)):
        write_raster(f"set/{name}.tif", np.ones((3, 96, 96), np.uint8), left=left)
    shapes = [(shapely.box(500_000 + 240 * k, 4_999_040, 500_240 + 240 * k, 5_000_000), "ab"[k % 2]) for k in range(6)]
    data = read(write_layer("l.gpkg", shapes).parent / "set", write_layer("l.gpkg", shapes))
    blocks = {}
    for item in data.items:
        transform = item_place(item).transform
        blocks.setdefault(item.group, []).append((transform[2], transform[5]))
    for places in blocks.values():
        x, y = np.array(places).T
        assert np.ptp(x) <= 160 and np.ptp(y) <= 160  # 32 pixels of 10 m hold windows of 16


def test_an_area_smaller_than_two_blocks_is_refused(field):
    with pytest.raises(
        DataError, match=r"field\.tif: smaller than two blocks of 900 m, .* give a smaller --block-size"
    ):
        read(*field, block_size=900)
    with pytest.raises(DataError, match="smaller than a window of 160 m; give a larger --block-size"):
        read(*field, block_size=100)
    with pytest.raises(ConfigError, match="block_size"):
        read(*field, block_size=-1)


def test_without_blocks_windows_are_split_at_random(field, tmp_path):
    data = read(*field, block_size=0)
    assert data.blocks == "" and {item.group for item in data.items} == {None}
    assert {item.split for item in divided(data, tmp_path).items} >= {"train", "test"}


@pytest.mark.parametrize(
    ("crs", "metres", "wanted"),
    [("EPSG:32633", 10.0, (10.0, 10.0)), ("EPSG:3857", 10.0, (8.66, 8.66)), ("EPSG:4326", 1e-4, (9.65, 11.11))],
)
def test_distances_are_those_on_the_ground(write_raster, crs, metres, wanted):
    """At 30 degrees north: Mercator's metres are longer there, degrees of longitude shorter."""
    left, top = rasterio.warp.transform("EPSG:4326", crs, [15.0], [30.0])
    file = write_raster("a.tif", np.ones((1, 8, 8), np.uint8), crs=crs, metres=metres, left=left[0], top=top[0])
    np.testing.assert_allclose(metres_per_pixel(header_of([file])), wanted, rtol=0.006)


def test_a_raster_without_crs_works_and_says_so(write_raster, write_layer, tmp_path):
    stored = np.ones((3, 360, 360), np.uint8)
    raster = write_raster("a.tif", stored, crs=None)
    classes = np.ones((1, 360, 360), np.uint8)
    classes[:, :, 180:] = 2
    labels = write_raster("c.tif", classes, crs=None)
    data = read(raster, labels, block_size=None)
    assert any("blocks of 160 pixels, since there is no CRS" in note for note in data.notes)
    with pytest.raises(DataError, match="has no CRS, so --block-size cannot be in metres"):
        read(raster, labels)
    shape = write_layer("l.gpkg", [(shapely.box(0, 0, 1, 1), "a")])
    with pytest.raises(DataError, match=r"a\.tif: has no CRS, but what it is laid over has one"):
        read(raster, shape, block_size=None)


def test_rasters_of_several_crs_are_refused_with_blocks(write_raster, write_layer):
    write_raster("set/a.tif", np.ones((3, 96, 96), np.uint8))
    write_raster("set/b.tif", np.ones((3, 96, 96), np.uint8), crs="EPSG:32634")
    layer = write_layer("l.gpkg", [(shapely.box(500_000, 4_999_040, 500_960, 5_000_000), "a")])
    with pytest.raises(DataError, match="several CRSs"):
        read(layer.parent / "set", layer)


def scenes(write_raster, apart, count=6):
    for label, name in enumerate(("Forest", "River")):
        for i in range(count):
            left = 500_000 + apart * (i // 2) + 160 * (i % 2) + 320 * label
            stored = np.random.default_rng(10 * label + i).integers(1, 255, (3, 16, 16)).astype(np.uint8)
            write_raster(f"scenes/{name}/{name}_{i}.tif", stored, left=left)


def test_scenes_that_say_where_they_lie_are_split_by_place(write_raster, tmp_path):
    scenes(write_raster, apart=20_000)
    data = RemoteSensing().read(tmp_path / "scenes", "classification")
    assert data.blocks == "blocks of 1.6 km" and 3 <= len({item.group for item in data.items}) <= 6
    sides = {}
    for item in divided(data, tmp_path).items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(each) == 1 for each in sides.values())
    check_domain(RemoteSensing(), task="classification", data=tmp_path / "scenes", sample=False)


def test_scenes_are_split_by_place_whatever_one_of_them_lacks(write_raster, tmp_path):
    scenes(write_raster, apart=20_000)
    one = min((tmp_path / "scenes").rglob("*.tif"))
    one.write_bytes(b"II*\0 cut short")
    data = RemoteSensing().read(tmp_path / "scenes", "classification")
    assert data.blocks == "blocks of 1.6 km" and all(item.group for item in data.items)
    assert [name for name, _ in data.skipped] == [one.relative_to(tmp_path / "scenes").as_posix()]


def test_scenes_of_one_block_are_refused_unless_random_splits_are_wanted(write_raster, tmp_path):
    scenes(write_raster, apart=100)
    with pytest.raises(DataError, match=r"less than two blocks of 1\.6 km"):
        RemoteSensing().read(tmp_path / "scenes", "classification")
    data = RemoteSensing().read(tmp_path / "scenes", "classification", block_size=0)
    assert not data.blocks and all(item.group is None for item in data.items)


def test_a_published_split_wins_over_places(write_raster, tmp_path):
    scenes(write_raster, apart=100)
    for split, numbers in (("train", range(4)), ("test", (4, 5))):
        lines = "".join(f"{name}_{i}.tif\n" for name in ("Forest", "River") for i in numbers)
        (tmp_path / "scenes" / f"{split}.txt").write_text(lines)
    data = RemoteSensing().read(tmp_path / "scenes", "classification")
    assert not data.blocks and {item.split for item in data.items} == {"train", "test"}


@pytest.mark.thorough
def test_windows_keep_the_contract(field):
    reading = {"labels": str(field[1]), **HOW}
    check_domain(RemoteSensing(), task="classification", data=field[0], reading=reading, sample=False)
    assert json.dumps(read(*field).items[0].decode)

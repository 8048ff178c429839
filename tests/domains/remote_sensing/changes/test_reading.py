"""Pairs of dates as they are read: layouts, what masks mean, tiles by place, and one line for what is no pair."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.changes.masks import load_change, masked_pair
from vladapt.domains.remote_sensing.changes.pairs import tile_boxes, window_box

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")


def read(path, **options):
    return RemoteSensing().read(path, "change", **options)


def values(*shape, kind=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(1, 200, shape).astype(kind)


@pytest.fixture
def yard(write_raster):
    """Two dates of 80 x 120 pixels on earth, and a mask with a square."""
    mask = np.zeros((1, 80, 120), np.uint8)
    mask[0, 10:26, 30:50] = 1
    return [
        write_raster(f"yard/{name}.tif", array)
        for name, array in (("before", values(3, 80, 120)), ("after", values(3, 80, 120, seed=1)), ("mask", mask))
    ]


# what masks mean ------------------------------------------------------------------------------------------------------


def test_a_mask_of_0_and_255_shows_change_at_255(folders, square):
    data = read(folders([square(value=255), square(value=255)]))
    assert load_change(data.items[0]).sum() == 25 and "255 is change" in " ".join(data.notes)
    assert data.items[0].classes() == (0, 1) and data.load(data.items[0]).shape == (2, 16, 16, 3)


def test_255_beside_0_and_1_is_ignored(folders, square):
    marked = square()
    marked[-1] = 255
    data = read(folders([square(), marked]))
    masks = [load_change(item) for item in data.items]
    assert (masks[1][-1] == 255).all() and masks[1].tolist() == marked.tolist() and "255 is ignored" in data.notes[0]


def test_masks_of_the_test_split_do_not_say_what_training_masks_mean(folders, square):
    folders([square(), square()], below="train")
    data = read(folders([square(value=255)], below="test"))
    shown = [load_change(item) for item in data.split("test")]
    assert (shown[0] == 255).sum() == 25
    assert "1 is change" in data.notes[0]


def test_nodata_of_either_date_is_ignored(write_raster, tmp_path):
    before, after = values(3, 16, 16), values(3, 16, 16, seed=1)
    before[:, 0], after[:, :, 0] = 0, 0
    mask = np.zeros((1, 16, 16), np.uint8)
    mask[0, 4:8, 4:8] = 1
    for name, array, nodata in (("A", before, 0), ("B", after, 0), ("label", mask, None)):
        write_raster(f"set/{name}/one.tif", array, nodata=nodata)
    data = read(tmp_path / "set", block_size=0)
    labels = masked_pair(data.items[0])[1]
    assert (labels[0] == 255).all() and (labels[:, 0] == 255).all() and (labels[1:, 1:] != 255).all()


# layouts --------------------------------------------------------------------------------------------------------------


def test_lists_beside_the_folders_are_the_splits(folders, square):
    root = folders([square()] * 4, names=["a", "b", "c", "d"])
    (root / "list").mkdir()
    for split, names in (("train", "a.png\nb.png"), ("val", "c.png"), ("test", "d.png")):
        (root / "list" / f"{split}.txt").write_text(names)
    data = read(root)
    assert [item.split for item in data.items] == ["train", "train", "val", "test"]


def test_a_table_names_pairs_places_and_splits(folders, square):
    root = folders([square()] * 3)
    rows = ["place,split,mask,before,after"]
    rows += [f"town,{split},label/{n}.png,A/{n}.png,B/{n}.png" for n, split in enumerate(("train", "val", "test"))]
    (root / "pairs.csv").write_text("\n".join(rows))
    data = read(root / "pairs.csv")
    assert [item.group for item in data.items] == ["town"] * 3
    assert [item.split for item in data.items] == ["train", "val", "test"]
    assert read(root / "pairs.csv", group_column="split").items[2].group == "test"


def test_oscd_is_read_by_cities_with_its_own_numbers(write_raster, tmp_path):
    mask = np.ones((1, 12, 10), np.uint8)
    mask[0, :3, :4] = 2
    for city in ("paris", "lisbon"):
        for date, seed in (("imgs_1_rect", 0), ("imgs_2_rect", 1)):
            for number, band in enumerate(("B02", "B03", "B04")):
                write_raster(
                    f"oscd/images/{city}/{date}/{band}.tif", values(1, 12, 10, kind=np.uint16, seed=seed + number)
                )
        write_raster(f"oscd/labels/{city}/cm/{city}-cm.tif", mask, crs=None)
    (tmp_path / "oscd/images/train.txt").write_text("paris")
    (tmp_path / "oscd/images/test.txt").write_text("lisbon")
    data = read(tmp_path / "oscd")
    assert {item.id: item.split for item in data.items} == {"lisbon": "test", "paris": "train"}
    assert load_change(data.items[0]).sum() == 12 and data.load(data.items[0]).shape == (2, 12, 10, 3)
    assert data.load(data.items[0]).dtype == np.float32


def test_a_date_of_several_bands_is_one_picture_of_them(write_raster, tmp_path):
    for name, array in (("A", values(5, 8, 8)), ("B", values(5, 8, 8, seed=1)), ("label", np.eye(8)[None])):
        write_raster(f"set/{name}/one.tif", array.astype(np.uint8))
    data = read(tmp_path / "set", bands="1,2,3,5", block_size=0)
    assert data.load(data.items[0]).shape == (2, 8, 8, 4)


# large rasters --------------------------------------------------------------------------------------------------------


def test_tiles_of_a_large_raster_cover_it_once_and_lie_in_blocks(yard):
    data = read(yard[0], after=str(yard[1]), labels=str(yard[2]), window_size=32, block_size=400)
    covered = np.zeros((80, 120), int)
    for item in data.items:
        left, top, width, height = window_box(item)
        covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1 and covered[:80, :120].mean() > 0.9
    assert len({item.group for item in data.items}) > 3 and "blocks of 400 m" in data.blocks
    assert sum(int((load_change(item) == 1).sum()) for item in data.items) == 16 * 20


def test_polygons_are_the_changed_land(yard, tmp_path):
    shapely, pyogrio = pytest.importorskip("shapely"), pytest.importorskip("pyogrio")
    area = shapely.box(500_300, 5_000_000 - 260, 500_500, 5_000_000 - 100)  # columns 30 to 50, rows 10 to 26
    layer = {"geometry": shapely.to_wkb(np.array([area], object)), "field_data": [np.array([7])], "fields": ["height"]}
    pyogrio.raw.write(tmp_path / "new.gpkg", **layer, geometry_type="Polygon", crs="EPSG:32633")
    how = {"after": "after.tif", "window_size": 32, "block_size": 0}
    drawn, stored = (read(yard[0], labels=str(file), **how) for file in (tmp_path / "new.gpkg", yard[2]))
    assert [item.id for item in drawn.items] == [item.id for item in stored.items]
    for one, other in zip(drawn.items, stored.items):
        assert np.array_equal(load_change(one), load_change(other))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
def test_tiles_cover_an_area_once(width, height, size, left, top):
    covered = np.zeros((top + height, left + width), int)
    for x, y, wide, high in tile_boxes((left, top, width, height), size):
        assert 0 < wide <= size and 0 < high <= size
        covered[y : y + high, x : x + wide] += 1
    assert (covered[top:, left:] == 1).all() and covered.sum() == width * height


# new pairs ------------------------------------------------------------------------------------------------------------


def test_new_pairs_are_two_files_a_table_or_folders(folders, square):
    from vladapt.domains.remote_sensing.changes.reading import read_new
    from vladapt.domains.remote_sensing.reading import RemoteSensingReading

    root = folders([square()] * 2)
    (root / "new.csv").write_text("before,after\nA/0.png,B/1.png\nA/0.png,B/0.png")
    assert len(read_new([root / "A/0.png", root / "B/0.png"], RemoteSensingReading()).items) == 1
    assert [item.id for item in read_new([root / "new.csv"], RemoteSensingReading()).items] == [
        "A/0.png 1",
        "A/0.png 2",
    ]
    shutil.rmtree(root / "label")
    assert len(read_new([root], RemoteSensingReading()).items) == 2
    with pytest.raises(DataError, match="give BEFORE AFTER, a table, or a folder"):
        read_new([root / "A/0.png"], RemoteSensingReading())


# what is no pair ------------------------------------------------------------------------------------------------------

WRONG_DATES = {
    "another place": ({"left": 900_000.0}, r"before\.tif and .*after\.tif: are of different places"),
    "another grid": ({"left": 500_004.0}, r"grids that are 0\.4 pixels apart; resample"),
    "another pixel": ({"metres": 20.0}, "have pixels of 10 and 20 units"),
    "another crs": ({"crs": "EPSG:32634"}, "have different CRSs; reproject"),
    "no crs": ({"crs": None}, r"after\.tif: has no CRS, but .*before\.tif beside it has one"),
    "another size": ({"side": 24}, r"differ in size \(16 x 16 and 24 x 24 pixels\)"),
}


@pytest.mark.parametrize("wrong", WRONG_DATES)
def test_dates_of_different_grids_are_refused_by_name(write_raster, tmp_path, wrong):
    how, message = dict(WRONG_DATES[wrong][0]), WRONG_DATES[wrong][1]
    side = how.pop("side", 16)
    write_raster("before.tif", values(3, 16, 16))
    write_raster("after.tif", values(3, side, side, seed=1), **how)
    write_raster("mask.tif", np.eye(16, dtype=np.uint8)[None])
    (tmp_path / "pairs.csv").write_text("before,after,mask\nbefore.tif,after.tif,mask.tif")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "pairs.csv")


def spoiled(root, how):
    """A set with one fault, and what its message says."""
    if how == "second date missing":
        (root / "B/1.png").unlink()
        return root, r"A/1\.png: has no second date in .*B"
    if how == "first date missing":
        (root / "A/1.png").unlink()
        return root, r"B/1\.png: has no first date in .*A"
    if how == "mask missing":
        (root / "label/1.png").unlink()
        return root, r"A/1\.png: has no mask in .*label"
    if how == "mask of another size":
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(root / "label/1.png")
        return root, r"label/1\.png: a mask of 8 x 8 pixels for dates of 16 x 16"
    if how == "more than two classes":
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 4).save(root / "label/1.png")
        return root, r"label/1\.png: a mask of more than two classes \(0, 1, 2, 3; 2 is neither"
    if how == "mask in colours":
        Image.fromarray(values(16, 16, 3)).save(root / "label/1.png")
        return root, "a mask in colours"
    if how == "no change anywhere":
        for file in (root / "label").iterdir():
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(file)
        return root, "have no number but 0, no change"
    if how == "no folder of the second date":
        shutil.rmtree(root / "B")
        return root, "has no folder B"
    if how == "empty cell":
        (root / "t.csv").write_text("before,after,mask\nA/0.png,,label/0.png")
        return root / "t.csv", "line 2: no file in column 'after'"
    if how == "no such file":
        (root / "t.csv").write_text("before,after,mask\nA/0.png,B/9.png,label/0.png")
        return root / "t.csv", r"line 2: there is no file B/9\.png"
    if how == "no column":
        (root / "t.csv").write_text("before,mask\nA/0.png,label/0.png")
        return root / "t.csv", "has no column 'after'; it has: before, mask"
    (root / "t.csv").write_text("before,after,mask,split\nA/0.png,B/0.png,label/0.png,often")
    return root / "t.csv", "line 2: split 'often'"


FAULTS = (
    *("second date missing", "first date missing", "mask missing", "mask of another size", "more than two classes"),
    *("mask in colours", "no change anywhere", "no folder of the second date", "empty cell", "no such file"),
    *("no column", "no such split"),
)


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_of_a_set_is_one_line(folders, square, how):
    path, message = spoiled(folders([square()] * 3), how)
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_raster_alone_and_options_of_others_are_refused(yard):
    with pytest.raises(DataError, match="give --after, the raster of the second date"):
        read(yard[0], labels=str(yard[2]))
    with pytest.raises(DataError, match="give --labels, where it changed"):
        read(yard[0], after=str(yard[1]))
    with pytest.raises(ConfigError, match=r"data\.corpus: not used by change"):
        read(yard[0], after=str(yard[1]), labels=str(yard[2]), corpus="rs5m")

"""Sets of images with numbers per pixel: folders of pairs, tables, and a large raster cut into windows by place."""

from __future__ import annotations

import numpy as np
import pytest

from vladapt import load_domain
from vladapt.core.errors import DataError

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

TASK = "pixel-regression"


def read(path, **options):
    return load_domain("remote-sensing").read(path, TASK, **options)


def image(side=16):
    return np.full((3, side, side), 90, np.uint8)


def heights(side=16, level=1.0):
    return np.full((1, side, side), level, np.float32)


def pair(write_raster, folder, name, side=16, level=1.0, **profile):
    write_raster(f"{folder}/images/{name}.tif", image(side), **profile)
    write_raster(f"{folder}/targets/{name}.tif", heights(side, level), **profile)


def test_pairs_of_folders_have_the_name_in_common(write_raster, tmp_path):
    for number in range(4):
        pair(write_raster, "set", f"site{number}", level=number, left=500_000 + 10_000 * number)
    write_raster("set/images/alone.tif", image())
    data = read(tmp_path / "set")
    assert [item.target.mean for item in data.items] == [0, 1, 2, 3] and data.kind == "number maps"
    assert data.skipped == [("images/alone.tif", "no target of that name in targets")]
    assert len({item.group for item in data.items}) == 4 and "blocks of" in data.blocks


def test_splits_are_those_of_the_folders(write_raster, tmp_path):
    for split in ("train", "val", "test"):
        pair(write_raster, f"set/{split}", "site")
    assert {item.split for item in read(tmp_path / "set").items} == {"train", "val", "test"}


def test_images_larger_than_a_window_are_cut_and_stay_together(write_raster, tmp_path):
    pair(write_raster, "set", "site", side=24)
    items = read(tmp_path / "set", window_size=16, overlap=0.5).items
    assert [item.target.box for item in items] == [(x, y, 16, 16) for y in (0, 8) for x in (0, 8)]
    assert len({item.group for item in items}) == 1 and items[0].decode["window"] == [0, 0, 16, 16]


def test_a_table_names_image_and_target(write_raster, tmp_path):
    for number in range(3):
        pair(write_raster, "set", f"site{number}")
    rows = [
        f"set/images/site{k}.tif,set/targets/site{k}.tif,{split}" for k, split in enumerate(("train", "val", "test"))
    ]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["image,target,split", *rows]))
    assert [item.split for item in read(table).items] == ["train", "val", "test"]
    table.write_text("image,target\nset/images/site0.tif,set/targets/none.tif")
    with pytest.raises(DataError, match=r"line 2: column target: there is no file 'set/targets/none.tif'"):
        read(table)
    table.write_text("image,mask2\na,b")
    with pytest.raises(DataError, match=r"needs columns image and target.*it has: image, mask2"):
        read(table)


def test_a_large_raster_is_cut_by_place_and_windows_without_a_number_are_left_out(write_raster, tmp_path):
    values = heights(64)
    values[0, :20, :20] = -9
    write_raster("set/image.tif", image(64))
    target = write_raster("heights.tif", values, nodata=-9)
    data = read(tmp_path / "set" / "image.tif", labels=str(target), window_size=16, overlap=0.0, block_size=320.0)
    assert len(data.items) == 15 and "left out: 1" in " ".join(data.notes)
    assert len({item.group for item in data.items}) > 3 and data.blocks
    assert sum(item.target.count for item in data.items) == 64 * 64 - 20 * 20


def test_numbers_where_the_image_has_nothing_do_not_count(write_raster, tmp_path):
    seen = image()
    seen[:, :4] = 0
    write_raster("set/images/a.tif", seen, nodata=0)
    write_raster("set/targets/a.tif", heights(level=3.0))
    (item,) = read(tmp_path / "set", block_size=0).items
    assert item.target.count == 16 * 12 and item.target.mean == 3


def test_a_window_where_one_band_has_nothing_is_left_out(write_raster, tmp_path):
    seen = image(32)
    seen[2, :16] = 0
    write_raster("set/images/a.tif", seen, nodata=0)
    write_raster("set/targets/a.tif", heights(32))
    items = read(tmp_path / "set", block_size=0, window_size=16, overlap=0.0).items
    assert [item.target.box[:2] for item in items] == [(0, 16), (16, 16)]


def test_windows_larger_than_a_whole_picture_is_looked_at_have_their_own_pixels(write_raster, tmp_path, monkeypatch):
    from vladapt.domains.remote_sensing import pictures
    from vladapt.domains.remote_sensing.number_maps.target import item_pixels

    monkeypatch.setattr(pictures, "MOST_SIDE", 8)
    pair(write_raster, "set", "site", side=24)
    for size, sides in ((64, 24), (16, 16)):
        item = read(tmp_path / "set", block_size=0, window_size=size).items[0]
        assert item_pixels(item)[0].shape[:2] == item.target.read()[0].shape == (sides, sides)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "no such file or folder"),
        ("set/images/a.tif", "a raster alone has no targets; give --labels"),
        ("set/images", "no pairs of an image and a target"),
    ],
)
def test_data_without_targets_are_refused(path, words, write_raster, tmp_path):
    pair(write_raster, "set", "a")
    with pytest.raises(DataError, match=words):
        read(tmp_path / path)


def test_targets_without_any_number_are_refused(write_raster, tmp_path):
    write_raster("set/images/a.tif", image())
    write_raster("set/targets/a.tif", heights(level=-9.0), nodata=-9)
    with pytest.raises(DataError, match="no window of it has a number"):
        read(tmp_path / "set")

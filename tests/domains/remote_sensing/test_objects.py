"""Windows of rasters with boxes and masks: of label layers, of annotated pictures, of DOTA's folders."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.objects import cut_objects, in_window
from vladapt.domains.remote_sensing.places import item_place
from vladapt.domains.remote_sensing.windows import Cutting

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pyogrio = pytest.importorskip("pyogrio")

SQUARES = ((4, 6, 10, "roof"), (20, 24, 12, "pond"), (28, 2, 8, "roof"))
"""Row, column and side in pixels of 10 m."""
LEFT, TOP, METRES = 500_000, 5_000_000, 10
HOW = {"window_size": 24, "overlap": 0.25, "block_size": 0, "bands": "1,2,3"}


def on_earth(row, column, side):
    x, y = LEFT + column * METRES, TOP - row * METRES
    return shapely.box(x, y - side * METRES, x + side * METRES, y)


@pytest.fixture
def yard(write_raster, tmp_path):
    """A raster of 40 x 48 pixels, 16 bits, and a layer of squares on it."""
    values = np.full((4, 40, 48), 500, np.uint16)
    for row, column, side, name in SQUARES:
        values[("pond", "roof").index(name), row : row + side, column : column + side] = 4000
    file = write_raster(tmp_path / "yard.tif", values)
    return file, layer_of(tmp_path / "yard.gpkg", [(on_earth(*square[:3]), square[3]) for square in SQUARES])


def layer_of(file, pairs, crs="EPSG:32633"):
    shapes, names = zip(*pairs)
    pyogrio.raw.write(
        file,
        geometry=shapely.to_wkb(np.array(shapes, dtype=object)),
        field_data=[np.array(names, object)],
        fields=["label"],
        geometry_type="Unknown",
        crs=crs,
    )
    return file


def test_areas_of_a_layer_are_boxes_in_the_pixels_of_each_window(yard):
    data = RemoteSensing().read(yard[0], "detection", labels=str(yard[1]), **HOW)
    assert data.class_names == ("pond", "roof") and data.kind == "boxes"
    found = set()
    for item in data.items:
        left, top, width, height = item.decode["window"]
        assert item_place(item).crs and item.target.size == (width, height)
        for box, label, ignored in zip(
            item.target.boxes, item.target.labels, item.target.ignored or [False] * len(item.target.boxes)
        ):
            moved = np.array(box) + (left, top, left, top)
            square = next(s for s in SQUARES if s[3] == data.class_names[label] and _inside(moved, s))
            whole = np.array((square[1], square[0], square[1] + square[2], square[0] + square[2]))
            share = np.prod(moved[2:] - moved[:2]) / np.prod(whole[2:] - whole[:2])
            assert ignored == (share < 0.5)
            found |= {square} if np.allclose(moved, whole) else set()
    assert found == set(SQUARES)


def _inside(box, square):
    row, column, side, _ = square
    return (
        box[0] >= column - 1e-6
        and box[1] >= row - 1e-6
        and box[2] <= column + side + 1e-6
        and box[3] <= row + side + 1e-6
    )


def test_a_layer_becomes_masks_whose_rest_is_background_or_ignored(yard, tmp_path):
    hole = on_earth(4, 6, 10).difference(on_earth(8, 10, 2))
    layer = layer_of(tmp_path / "hole.gpkg", [(hole, "roof"), (on_earth(20, 24, 12), "pond")])
    truth = np.zeros((40, 48), np.uint8)
    truth[4:14, 6:16], truth[20:32, 24:36] = 2, 1
    truth[8:10, 10:12] = 0
    for background in (True, False):
        data = RemoteSensing().read(yard[0], "segmentation", labels=str(layer), background=background, **HOW)
        names = ("background", "pond", "roof") if background else ("pond", "roof")
        assert data.class_names == names
        for item in data.items:
            left, top, width, height = item.decode["window"]
            wanted = truth[top : top + height, left : left + width]
            wanted = wanted if background else np.where(wanted == 0, 255, wanted - 1)
            assert (data.load_mask(item) == wanted).all()


def test_a_raster_of_classes_becomes_masks_and_no_boxes(yard, write_raster, tmp_path):
    classes = np.zeros((1, 40, 48), np.uint8)
    classes[0, :20], classes[0, 20:, :24] = 3, 7
    layer = write_raster(tmp_path / "classes.tif", classes, nodata=0)
    how = {**HOW, "labels": str(layer), "background": False, "class_names": "field,road"}
    data = RemoteSensing().read(yard[0], "segmentation", **how)
    seen = np.full((40, 48), 9, np.uint8)
    for item in data.items:
        left, top, width, height = item.decode["window"]
        seen[top : top + height, left : left + width] = data.load_mask(item)
    assert (seen == np.select([classes[0] == 3, classes[0] == 7], [0, 1], 255)).all()
    with pytest.raises(DataError, match="has no boxes"):
        RemoteSensing().read(yard[0], "detection", labels=str(layer), **HOW)


@pytest.mark.parametrize(("option", "value"), [("corpus", "rs5m"), ("min_side", 4.0), ("background", False)])
def test_options_that_change_nothing_are_refused(yard, option, value):
    with pytest.raises(ConfigError, match=f"data.{option}: not used by detection"):
        RemoteSensing().read(yard[0], "detection", labels=str(yard[1]), **HOW, **{option: value})


def test_points_and_a_layer_elsewhere_are_refused(yard, tmp_path):
    points = layer_of(tmp_path / "points.gpkg", [(shapely.Point(LEFT + 100, TOP - 100), "roof")])
    far = layer_of(tmp_path / "far.gpkg", [(shapely.box(900_000, 100_000, 900_100, 100_100), "roof")])
    for layer, why in ((points, "points or lines"), (far, "check that it lies in the same place")):
        with pytest.raises(DataError, match=why):
            RemoteSensing().read(yard[0], "detection", labels=str(layer), **HOW)


def test_blocks_of_land_hold_windows_together(yard):
    data = RemoteSensing().read(
        yard[0], "detection", labels=str(yard[1]), **{**HOW, "window_size": 12, "block_size": 200}
    )
    assert len({item.group for item in data.items}) > 1 and data.blocks == "blocks of 200 m"
    free = RemoteSensing().read(yard[0], "detection", labels=str(yard[1]), **HOW)
    assert {item.group for item in free.items} == {None}


def test_new_rasters_are_cut_and_stretched_as_those_of_the_fit_and_say_who_decodes_them(yard):
    domain = RemoteSensing()
    data = domain.read(yard[0], "detection", labels=str(yard[1]), **HOW)
    new = domain.read_images([yard[0]], **{**HOW, **data.reading})
    assert {item.decode["window"][2] for item in new.items} == {24}
    assert all(
        item.decode[Item.WHOLE] == [40, 48] and item.decode[Item.READ_BY] == "remote-sensing" for item in new.items
    )
    known = {tuple(item.decode["window"]): item for item in data.items}
    for item in new.items:
        if tuple(item.decode["window"]) in known:
            decode = {key: value for key, value in item.decode.items() if key != Item.READ_BY}
            pixels = domain.decode(item.source, decode)
            assert pixels.shape == (24, 24, 3) and np.allclose(pixels, data.load(known[tuple(item.decode["window"])]))


def test_a_picture_of_several_composites_is_refused_by_those_who_train_on_one(yard):
    with pytest.raises(DataError, match="give one composite"):
        RemoteSensing().decode(yard[0], {"bands": "1,2,3+2,3,4", "stretch": "image"})


def coco_of(folder, name, width, height, boxes):
    """A COCO file of one picture with boxes (x, y, width, height) of ships."""
    annotations = [
        {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": [_ring(*box)], "iscrowd": 0, "area": 1}
        for k, box in enumerate(boxes, start=1)
    ]
    images = [{"id": 1, "file_name": name, "width": width, "height": height}]
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "ship"}]}
    (folder / "instances.json").write_text(json.dumps(coco))


@pytest.mark.parametrize("bands, shown", [(None, [0, 1, 2]), ("4,2,1", [3, 1, 0])])
def test_boxes_lie_on_rasters_of_many_bands_of_16_bits(yard, tmp_path, bands, shown):
    coco_of(tmp_path, "yard.tif", 48, 40, [[2, 4, 8, 4], [30, 20, 10, 10]])
    how = {"window_size": 24, "overlap": 0.25, "block_size": 0, "stretch": (0.0, 4000.0), "bands": bands}
    data = RemoteSensing().read(tmp_path / "instances.json", "detection", **how)
    assert not data.skipped and sum(len(item.target.boxes) for item in data.items) >= 2
    stored = numbers_of(yard[0])
    for item in data.items:
        left, top, width, height = item.decode["window"]
        seen = stored[shown, top : top + height, left : left + width].transpose(1, 2, 0) / 4000
        np.testing.assert_allclose(data.load(item), seen, atol=1e-6)
        decode = {key: value for key, value in item.decode.items() if key != Item.READ_BY}
        np.testing.assert_array_equal(RemoteSensing().decode(item.source, decode), data.load(item))


def test_masks_lie_on_rasters_of_many_bands_of_16_bits(yard, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    yard[0].rename(tmp_path / "set" / "images" / "yard.tif")
    mask = np.zeros((40, 48), np.uint8)
    mask[10:20] = 1
    Image.fromarray(mask).save(tmp_path / "set" / "masks" / "yard.png")
    data = RemoteSensing().read(tmp_path / "set", "segmentation", bands="4,2,1", stretch=(0.0, 4000.0), block_size=0)
    stored = numbers_of(tmp_path / "set" / "images" / "yard.tif")
    np.testing.assert_allclose(data.load(data.items[0]), stored[[3, 1, 0]].transpose(1, 2, 0) / 4000, atol=1e-6)
    np.testing.assert_array_equal(data.load_mask(data.items[0]), mask)


def numbers_of(file):
    """(B, H, W), as stored."""
    import rasterio

    with rasterio.open(file) as raster:
        return raster.read()


def test_pictures_of_a_set_are_cut_with_their_boxes(tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    boxes = [[2, 3, 10, 8], [30, 20, 20, 10]]
    coco_of(tmp_path, "a.png", 60, 40, boxes)
    whole = RemoteSensing().read(tmp_path, "detection")
    assert [item.target.boxes for item in whole.items] == [((2, 3, 12, 11), (30, 20, 50, 30))]
    data = RemoteSensing().read(tmp_path, "detection", window_size=32, overlap=0.5)
    assert len(data.items) == 2 * 3 and len({item.group for item in data.items}) == 1
    for item in data.items:
        left, top = item.decode["box"][:2]
        for box, ring in zip(item.target.boxes, item.target.segments or ()):
            assert np.allclose(np.reshape(ring[0], (-1, 2)).min(axis=0), box[:2])
            assert any(np.all(np.array(box[:2]) + (left, top) >= (x, y)) for x, y, *_ in boxes)
    masks = RemoteSensing().read(tmp_path, "segmentation", window_size=32, overlap=0.5)
    assert masks.class_names == ("background", "ship")
    for item in masks.items:  # parts of objects are no less what they are
        left, top, right, bottom = item.decode["box"]
        truth = np.zeros((40, 60), np.uint8)
        for x, y, width, height in boxes:
            truth[y : y + height, x : x + width] = 1
        assert (masks.load_mask(item) == truth[top:bottom, left:right]).mean() > 0.95


def _ring(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_box_of_which_a_window_shows_too_little_is_ignored_there(share):
    target = Boxes(boxes=((0, 0, 20, 10),), labels=(0,), size=(40, 10))
    assert in_window(target, (10, 0, 30, 10), share).ignored == ((True,) if share > 0.5 else None)
    assert in_window(replace(target, ignored=(True,)), (0, 0, 30, 10), share).ignored == (True,)
    assert not in_window(target, (20, 0, 20, 10), share).boxes


def test_a_set_that_fits_is_left_as_it_is(tmp_path):
    item = Item("a", tmp_path / "a.png", target=Boxes(boxes=((0, 0, 9, 9),), labels=(0,), size=(40, 40)))
    data = DomainData([item], ("ship",), load=lambda item: None, kind="boxes")
    assert cut_objects(data, Cutting(40)) is data
    assert len(cut_objects(data, Cutting(39)).items) == 4


# DOTA


@pytest.fixture
def dota(tmp_path):
    for split, lines in (
        ("train", "imagesource:GoogleEarth\ngsd:0.1\n10 5 20 10 15 20 5 15 small-vehicle 0\n1 1 4 1 4 4 1 4 ship 1\n"),
        ("val", "2.5 2 8 2 8 6 2.5 6 ship 0\n"),
    ):
        for folder in ("images", "labelTxt"):
            (tmp_path / split / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((24, 30, 3), np.uint8)).save(tmp_path / split / "images" / "P1.png")
        (tmp_path / split / "labelTxt" / "P1.txt").write_text(lines)
    return tmp_path


def test_oriented_boxes_become_their_upright_hulls_and_stay_as_outlines(dota):
    data = RemoteSensing().read(dota, "detection")
    assert data.class_names == ("ship", "small vehicle")
    first, second = data.items
    assert first.target.boxes == ((5, 5, 20, 20), (1, 1, 4, 4)) and first.target.labels == (1, 0)
    assert first.target.ignored == (False, True) and first.target.segments[0] == [[10, 5, 20, 10, 15, 20, 5, 15]]
    assert (first.split, second.split) == ("train", "val") and second.target.boxes == ((2.5, 2, 8, 6),)


@pytest.mark.parametrize("line", ["1 2 3 4 5 6 7 ship 0", "1 2 3 4 5 6 7 x ship 0", "1 2 3 4 5 6 7 nan ship 0", "ship"])
def test_a_line_that_is_none_of_dota_is_told_with_its_place(dota, line):
    (dota / "val" / "labelTxt" / "P1.txt").write_text(line)
    with pytest.raises(DataError, match=r"P1\.txt line 1: .*x4 y4 category difficult"):
        RemoteSensing().read(dota, "detection")


def test_labels_without_pictures_are_listed_and_alone_refused(dota):
    (dota / "train" / "labelTxt" / "P2.txt").write_text("1 1 4 1 4 4 1 4 ship 0\n")
    data = RemoteSensing().read(dota, "detection")
    assert [name for name, _ in data.skipped] == ["train/labelTxt/P2.txt"]
    for split in ("train", "val"):
        (dota / split / "images" / "P1.png").unlink()
    with pytest.raises(DataError, match="no picture with an object"):
        RemoteSensing().read(dota, "detection")

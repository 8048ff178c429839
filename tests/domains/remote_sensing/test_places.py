"""No place straddles splits, whatever the data are and however they are read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import DataError
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.prepared import checked_and_split
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.places import item_place

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")

NAMES = ("Forest", "River")
SEEDS = (0, 1)


def divided(data, tmp_path, seed=0):
    return assign_splits(data, seed=seed, hashes=FileHashes(tmp_path / "cache")).items


def corners(seed, count=24):
    """Places of pictures of 160 m, some of them at almost the same place, on 40 km."""
    random = np.random.default_rng(seed)
    first = random.uniform(0, 40_000, (count // 2, 2))
    again = first + random.choice([-10.0, 0.0, 10.0], first.shape)
    return np.concatenate([first, again]) + (500_000, 5_000_000)


def scenes(write_raster, folder, seed, names):
    """A picture of 16 x 16 pixels of 10 m at each place; their files."""
    files = []
    for (left, top), name in zip(corners(seed), names):
        stored = np.random.default_rng(len(files)).integers(1, 255, (3, 16, 16)).astype(np.uint8)
        files.append(write_raster(f"{folder}/{name}", stored, left=float(left), top=float(top)))
    return files


def land(item):
    return shapely.Polygon(item_place(item).corners)


def check_land(items):
    """Pictures of different splits share less than half of their land."""
    areas, splits = np.array([land(item) for item in items]), np.array([item.split for item in items])
    one, other = shapely.STRtree(areas).query(areas, predicate="intersects")
    apart = splits[one] != splits[other]
    shared = shapely.area(shapely.intersection(areas[one[apart]], areas[other[apart]]))
    smaller = np.minimum(shapely.area(areas[one[apart]]), shapely.area(areas[other[apart]]))
    assert (shared <= 0.5 * smaller).all()
    assert len(set(splits)) > 1 and len(one) > len(items)  # there are such pictures at all


# each way of reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_class_folders_of_rasters(write_raster, tmp_path, seed):
    scenes(write_raster, "s", seed, [f"{NAMES[i % 2]}/{i}.tif" for i in range(24)])
    data = RemoteSensing().read(tmp_path / "s", "classification", block_size=2000)
    check_land(divided(data, tmp_path, seed))


def test_blocks_of_land_are_what_groups_the_pictures_of_a_fit(write_raster, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    scenes(write_raster, "s", 0, [f"{NAMES[i % 2]}/{i}.tif" for i in range(24)])
    data = RemoteSensing().read(tmp_path / "s", "classification", block_size=2000)
    split, _ = checked_and_split(data, Reporter(quiet=True), 1, 0)
    check_land(split.items)
    assert [item.group for item in split.items] == [item.group for item in data.items]
    assert sum("Splits are by place" in note for note in split.notes) == 1
    assert not any("by patient, subject" in note for note in split.notes)


def test_what_tells_places_and_no_classes_scores_chance(write_raster, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    colours, coins = random.integers(20, 235, (81, 3, 1, 1)), random.permutation(81) % 2
    for site, picture in np.ndindex(81, 3):  # three neighbours of one colour and class at each site
        stored = (colours[site] + random.integers(-3, 4, (3, 8, 8))).astype(np.uint8)
        left, top = 500_000.0 + 900 * (site % 9) + 100 * picture, 5_000_000.0 - 900 * (site // 9)
        write_raster(f"s/{NAMES[coins[site]]}/{site}_{picture}.tif", stored, left=left, top=top)
    accuracy = {}
    for block_size in (None, 0):
        data = RemoteSensing().read(tmp_path / "s", "classification", block_size=block_size)
        items = checked_and_split(data, Reporter(quiet=True), 1, 0)[0].items
        sites = np.array([int(item.source.stem.partition("_")[0]) for item in items])
        train, test = (np.flatnonzero([item.split == split for item in items]) for split in ("train", "test"))
        apart = np.abs(colours[sites[test], None] - colours[sites[train]]).sum(axis=(2, 3, 4))
        accuracy[block_size] = (coins[sites[train[apart.argmin(axis=1)]]] == coins[sites[test]]).mean()
    assert accuracy[0] > 0.9 and 0.2 < accuracy[None] < 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_of_pictures_with_coordinates(tmp_path, seed):
    random = np.random.default_rng(seed)
    rows = ["image,label,Latitude,lon"]
    for i in range(40):
        name = f"{i}.png"
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / name)
        x, y = np.random.default_rng(1000 * seed + i // 2).uniform(10, 12, 2)  # two at each place
        rows.append(f"{name},{NAMES[i % 2]},{y},{x}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = RemoteSensing().read(tmp_path / "t.csv", "classification", block_size=5000)
    assert data.blocks == "blocks of 5 km" and data.open_groups is None
    assert sum("group" in note or "by place" in note for note in data.notes) == 1
    split = {item.id: item.split for item in divided(data, tmp_path, seed)}
    assert len(split) == 40 and all(split[f"{i}.png"] == split[f"{i + 1}.png"] for i in range(0, 40, 2))


def test_a_place_in_a_table_that_is_none_on_earth_is_one_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("image,label,lat,lon\na.png,x,95,10\na.png,y,5,10\n")
    with pytest.raises(DataError, match=r"a\.png lies at latitude, longitude 95, 10, which is no place in degrees"):
        RemoteSensing().read(tmp_path / "t.csv", "classification")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_of_captions_of_rasters(write_raster, tmp_path, seed):
    scenes(write_raster, "c", seed, [f"{i}.tif" for i in range(24)])
    rows = "\n".join(f"{i}.tif,a forest number {i}" for i in range(24))
    (tmp_path / "c/t.csv").write_text(f"filename,title\n{rows}\n")
    data = RemoteSensing().read(tmp_path / "c/t.csv", "retrieval", block_size=2000)
    check_land(divided(data, tmp_path, seed))


def coco(folder, names):
    """COCO boxes beside pictures of 16 x 16 pixels."""
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [2, 2, 8, 8]} for i in range(len(names))]
    images = [{"id": i, "file_name": name, "width": 16, "height": 16} for i, name in enumerate(names)]
    classes = [{"id": 1 + i, "name": name} for i, name in enumerate(NAMES)]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": classes}))


@pytest.mark.parametrize("task", ["retrieval", "detection"])
def test_boxes_of_coco_and_captions_made_of_them(write_raster, tmp_path, task):
    names = [f"{i}.tif" for i in range(24)]
    scenes(write_raster, "b", 0, names)
    coco(tmp_path / "b", names)
    data = RemoteSensing().read(tmp_path / "b", task, block_size=2000)
    check_land(divided(data, tmp_path))


def dota(folder, names, size, save):
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    for i, name in enumerate(names):
        save(folder / "images" / name, np.random.default_rng(i).integers(1, 255, (size, size, 3)).astype(np.uint8))
        (folder / "labelTxt" / name).with_suffix(".txt").write_text(f"2 2 9 2 9 9 2 9 {NAMES[i % 2]} 0\n")


def test_tiles_of_one_picture_of_dota(tmp_path):
    names = [f"P{i:04d}__1{'.0' * (i % 2)}__{left}___0.png" for i in range(8) for left in (0, 12)]
    dota(tmp_path / "d", names, 16, lambda file, pixels: Image.fromarray(pixels).save(file))
    items = divided(RemoteSensing().read(tmp_path / "d", "detection"), tmp_path)
    sides = {}
    for item in items:
        sides.setdefault(item.source.name[:5], set()).add(item.split)
    assert len(sides) == 8 and all(len(each) == 1 for each in sides.values())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_windows_of_one_picture_that_lies_nowhere(write_raster, tmp_path, suffix):
    """A picture that is cut is one place; windows of a raster may else be split apart."""

    def save(file, pixels):
        if suffix == "png":
            Image.fromarray(pixels).save(file)
        else:
            write_raster(str(file.relative_to(tmp_path)), pixels.transpose(2, 0, 1), crs=None)

    dota(tmp_path / "d", [f"{i}.{suffix}" for i in range(8)], 48, save)
    items = divided(RemoteSensing().read(tmp_path / "d", "detection", window_size=16), tmp_path)
    sides = {}
    for item in items:
        sides.setdefault(item.source, set()).add(item.split)
    assert len(items) > 8 and all(len(each) == 1 for each in sides.values())


@pytest.mark.parametrize(("metres", "left"), [(10.0, 500_475.0), (30.0, 500_480.0), (7.0, 500_333.0)])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_windows_of_rasters_that_overlap(write_raster, tmp_path, metres, left, task):
    """The second lies over the right half of the first, on another grid."""
    write_raster("set/a.tif", np.ones((3, 96, 96), np.uint8))
    side = int(960 / metres)
    write_raster("set/b.tif", np.ones((3, side, side), np.uint8), metres=metres, left=left)
    shapes = [shapely.box(500_000 + 240 * k, 4_999_000, 500_240 + 240 * k, 5_000_000) for k in range(7)]
    kinds = np.array(["ab"[k % 2] for k in range(7)], dtype=object)
    written = {"field_data": [kinds], "fields": ["label"], "geometry_type": "Polygon", "crs": "EPSG:32633"}
    pyogrio.raw.write(tmp_path / "l.gpkg", shapely.to_wkb(np.array(shapes)), **written)
    how = {"window_size": 10, "overlap": 0.2, "block_size": 320, "min_share": 0.3}
    data = RemoteSensing().read(tmp_path / "set", task, labels=str(tmp_path / "l.gpkg"), **how)
    by_group = {}
    for item in data.items:
        by_group.setdefault(item.group, []).append(land(item))
    whole = [shapely.union_all(areas) for areas in by_group.values()]
    half_a_pixel = metres / 2 * 320 + 1
    for k, one in enumerate(whole):
        for other in whole[:k]:
            assert shapely.area(shapely.intersection(one, other)) <= half_a_pixel
    assert len({item.source.name for item in data.items}) == 2


def with_given_splits(write_raster, tmp_path, splits):
    for i, split in enumerate(splits):
        left, top = 500_000.0 + 1000 * (i % 12), 5_000_000.0
        stored = np.random.default_rng(i).integers(1, 255, (3, 16, 16)).astype(np.uint8)
        write_raster(f"g/{split}/{NAMES[i // 12 % 2]}/{i}.tif", stored, left=left, top=top)
    return RemoteSensing().read(tmp_path / "g", "classification", block_size=900)


def test_a_val_that_is_taken_from_the_given_train_is_taken_by_place(write_raster, tmp_path):
    data = with_given_splits(write_raster, tmp_path, ["train"] * 24 + ["test"] * 24)
    assert data.blocks == "" and {item.group for item in data.items if item.split == "test"} == {None}
    items = divided(data, tmp_path)
    assert sum(item.split == "test" for item in items) == 24 and any(item.split == "val" for item in items)
    check_land([item for item in items if item.split != "test"])


def test_one_given_split_is_made_anew_by_place(write_raster, tmp_path):
    data = with_given_splits(write_raster, tmp_path, ["train"] * 24)
    assert data.blocks == "blocks of 900 m"
    check_land(divided(data, tmp_path))


# bad input ------------------------------------------------------------------------------------------------------------


def test_a_raster_without_crs_beside_one_with_is_one_line(write_raster, tmp_path):
    write_raster("s/Forest/a.tif", np.ones((3, 16, 16), np.uint8))
    write_raster("s/River/b.tif", np.ones((3, 16, 16), np.uint8), crs=None)
    with pytest.raises(DataError, match=r"b\.tif: has no CRS, but a\.tif beside it has one"):
        RemoteSensing().read(tmp_path / "s", "classification")
    assert len(RemoteSensing().read(tmp_path / "s", "classification", block_size=0).items) == 2


def test_a_large_raster_without_crs_beside_one_with_is_one_line(write_raster, tmp_path):
    for name, crs in (("a", "EPSG:32633"), ("b", None)):
        write_raster(f"s/{name}.tif", np.ones((3, 64, 64), np.uint8), crs=crs)
    layer = write_raster("classes.tif", np.arange(64 * 64).reshape(1, 64, 64).astype(np.uint8) % 2)
    for task in ("classification", "segmentation"):
        with pytest.raises(DataError, match=r"b\.tif: has no CRS, but a\.tif beside it has one"):
            RemoteSensing().read(tmp_path / "s", task, labels=str(layer), window_size=16)

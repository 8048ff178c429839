"""Training windows drawn anew in each epoch: where they lie, what they show; a draw is a function of its seed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.prepared import checked_and_split
from vladapt.core.training.samples import Samples
from vladapt.core.training.sources import LabelledSource
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.drawn_windows import _renumbered

rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="extra remote-sensing is not installed")
shapely = pytest.importorskip("shapely", reason="extra remote-sensing is not installed")

SIDE, WINDOW, BLOCK = 144, 16, 48
HOW = {"window_size": WINDOW, "overlap": 0.0, "block_size": 10.0 * BLOCK, "bands": "1,2,3"}
LEFT, TOP = 500_000, 5_000_000
RARE = [(8, 8, 5), (60, 12, 5), (110, 40, 5), (125, 130, 5), (20, 118, 5), (70, 100, 5)]
"""Row, column and side of squares of the class 9 on a map of 3 in the west and 5 in the east."""


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """A raster whose first band is the class, and its layer as a raster of classes and as areas; their folder, and the
    classes."""
    folder = tmp_path_factory.mktemp("land")
    classes = np.full((SIDE, SIDE), 3, np.uint8)
    classes[:, SIDE // 2 :] = 5
    for row, column, side in RARE:
        classes[row : row + side, column : column + side] = 9
    stored = np.stack([classes, *np.random.default_rng(0).integers(1, 255, (2, SIDE, SIDE))]).astype(np.uint8)
    save(folder / "land.tif", stored)
    save(folder / "classes.tif", classes[None])
    boxes = [shapely.box(LEFT + 10 * c, TOP - 10 * (r + s), LEFT + 10 * (c + s), TOP - 10 * r) for r, c, s in RARE]
    middle, right = LEFT + 5 * SIDE, LEFT + 10 * SIDE
    halves = [shapely.box(LEFT, TOP - 10 * SIDE, middle, TOP), shapely.box(middle, TOP - 10 * SIDE, right, TOP)]
    halves = [shapely.difference(half, shapely.union_all(boxes)) for half in halves]
    written(folder / "areas.gpkg", [*halves, *boxes], ["three", "five", *["rare"] * len(boxes)])
    written(folder / "rare.gpkg", [*boxes, halves[0]], [*["rare"] * len(boxes), "three"])
    return folder, classes


def save(file, stored, **profile):
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(LEFT, TOP, 10, 10)} | profile
    shape = {"count": len(stored), "height": stored.shape[1], "width": stored.shape[2], "dtype": stored.dtype}
    with rasterio.open(file, "w", driver="GTiff", **shape, **place) as raster:
        raster.write(stored)


def written(file, shapes, names, kind="Unknown"):
    fields = {"field_data": [np.array(names, object)], "fields": ["label"]}
    pyogrio.raw.write(file, shapely.to_wkb(np.array(shapes)), geometry_type=kind, crs="EPSG:32633", **fields)
    return file


@cache
def read(folder, layer, task, how, **options):
    """The set, the items that train, and what draws in their place."""
    data = RemoteSensing().read(
        folder / "land.tif", task, labels=str(folder / layer), draw_windows=how, **{**HOW, **options}
    )
    items = assign_splits(data, seed=0, hashes=FileHashes(folder / "cache")).split("train")
    return data, items, RemoteSensing().drawer(items, data.class_names) if items[0].draw else None


def share_of_class(classes, item, value):
    left, top, wide, high = item.decode["window"]
    return float((classes[top : top + high, left : left + wide] == value).mean())


@pytest.mark.parametrize("how", ["random", "balanced"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_windows_lie_in_training_blocks_and_on_other_places_than_the_grid(land, how, task):
    data, items, draw = read(land[0], "classes.tif", task, how)
    blocks = {}
    for item in data.items:
        left, top, wide, high = item.decode["window"]
        blocks.setdefault(item.group, []).append((left, top, left + wide, top + high))
    places = set()
    for row in range(len(items)):
        drawn = draw(row, 1)
        left, top, wide, high = drawn.decode["window"]
        places.add((left, top))
        assert (wide, high) == (WINDOW, WINDOW) and drawn.group in {item.group for item in items}
        of_block = np.array(blocks[drawn.group])
        assert (of_block[:, :2].min(axis=0) <= (left, top)).all()
        assert (of_block[:, 2:].max(axis=0) >= (left + wide, top + high)).all()
    assert len(places - {tuple(item.decode["window"][:2]) for item in data.items}) > len(places) / 2


def test_blocks_are_those_of_the_grid_where_a_raster_beside_has_no_labels(land, tmp_path):
    """The block of a window would be another without the finer raster, of which nothing is known."""
    stored = np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
    for name, metres, east in (("a.tif", 10, 0), ("b.tif", 6, 5_000)):
        place = rasterio.transform.from_origin(LEFT + east, TOP, metres, metres)
        save(tmp_path / name, stored, transform=place)
    how = {**HOW, "block_size": None, "window_size": 8, "draw_windows": "random"}
    data = RemoteSensing().read(tmp_path, "segmentation", labels=str(land[0] / "classes.tif"), **how)
    assert {item.source.name for item in data.items} == {"a.tif"}
    reach = {}
    for item in data.items:
        left, top, wide, high = item.decode["window"]
        reach.setdefault(item.group, []).append((left, top, left + wide, top + high))
    for item in data.items:
        corners = np.array(reach[item.group])
        (x0, y0), (x1, y1) = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        assert item.draw["block"] == [x0, y0, x1 - x0, y1 - y0]


def test_a_draw_is_a_function_of_row_and_seed(land):
    data, items, draw = read(land[0], "classes.tif", "segmentation", "balanced")
    again = RemoteSensing().drawer(items, data.class_names)
    windows = [[draw(row, seed).decode["window"] for row in (0, 1, 2)] for seed in (1, 2)]
    assert windows[0] == [again(row, 1).decode["window"] for row in (0, 1, 2)] and windows[0] != windows[1]


@pytest.mark.parametrize(
    ("learned", "numbers"),
    [
        (["water", "forest", "field"], {0: 2, 1: 1, 2: 0}),
        (["field", "forest", "water"], {0: 0, 1: 1, 2: 2}),
        (["Feld", "Wald", "water"], {0: 0, 1: 1, 2: 2}),
        (["water", "field"], {0: 1, 2: 0}),
    ],
)
def test_classes_of_the_layer_are_those_that_are_learned_in_any_order_or_language(learned, numbers):
    assert _renumbered(["field", "forest", "water"], learned) == numbers


@pytest.mark.parametrize("layer", ["classes.tif", "areas.gpkg"])
def test_masks_of_drawn_windows_are_what_the_layer_has_there(land, layer):
    folder, classes = land
    data, _, draw = read(folder, layer, "segmentation", "random")
    value = {"class 3": 3, "class 5": 5, "class 9": 9, "three": 3, "five": 5, "rare": 9}
    number = {value[name]: k for k, name in enumerate(data.class_names) if name in value}
    for row in range(8):
        item = draw(row, row)
        left, top, wide, high = item.decode["window"]
        expected = np.vectorize(number.get)(classes[top : top + high, left : left + wide])
        assert np.array_equal(data.load_mask(item), expected)
        assert np.array_equal(data.load(item)[..., 0], classes[top : top + high, left : left + wide])


def test_boxes_of_drawn_windows_are_the_objects_there(land):
    folder, classes = land
    _, _, draw = read(folder, "rare.gpkg", "detection", "balanced")
    seen = 0
    for row in range(15):
        item = draw(row, row)
        left, top, wide, high = item.decode["window"]
        there = {(r, c) for r, c, s in RARE if r < top + high and r + s > top and c < left + wide and c + s > left}
        rare = [box for box, label in zip(item.target.boxes, item.target.labels) if label == 0]
        assert len(rare) == len(there)
        for x0, y0, x1, y1 in np.array(rare, int).reshape(-1, 4):
            assert (classes[top + y0 : top + y1, left + x0 : left + x1] == 9).all()
        seen += len(rare)
    assert seen > 5


def test_classes_of_drawn_windows_are_those_that_cover_most_of_them(land):
    folder, classes = land
    data, items, draw = read(folder, "classes.tif", "classification", "random")
    drawn = [draw(row, 7) for row in range(len(items))]
    for item in drawn:
        value = int(data.class_names[item.target.index].split()[-1])
        assert share_of_class(classes, item, value) >= 0.5
    assert len({item.target.index for item in drawn}) == 2


@pytest.mark.parametrize(("task", "layer"), [("segmentation", "classes.tif"), ("detection", "rare.gpkg")])
def test_balanced_draws_see_a_rare_class_more_often_than_random_ones(land, task, layer):
    folder, classes = land
    shares = {}
    for how in ("random", "balanced"):
        _, items, draw = read(folder, layer, task, how)
        drawn = [draw(k % len(items), k) for k in range(80)]
        shares[how] = np.mean([share_of_class(classes, item, 9) > 0 for item in drawn])
    assert shares["balanced"] > shares["random"] + 0.15


def test_numbers_of_classes_are_those_of_the_classes_that_are_learned(land):
    _, items, _ = read(land[0], "rare.gpkg", "detection", "balanced", min_share=1e-4)
    of_three = [item.with_(target=item.target.restricted({1: 0})) for item in items]
    draw = RemoteSensing().drawer(of_three, ("three",))
    assert {label for row in range(10) for label in draw(row, 1).target.labels} == {0}
    with pytest.raises(ConfigError, match="none of pond is in the label layer"):
        RemoteSensing().drawer(items, ("pond",))


def test_where_no_object_is_to_be_found_windows_are_drawn_at_random(land):
    """Less than half of the large area is in a window, so it is ignored in each."""
    _, items, _ = read(land[0], "rare.gpkg", "detection", "balanced")
    of_three = [item.with_(target=item.target.restricted({1: 0})) for item in items]
    draw = RemoteSensing().drawer(of_three, ("three",))
    assert draw(0, 1).group == items[0].group and draw(0, 1).id != draw(0, 2).id


@pytest.mark.parametrize("empty", [slice(None), slice(1, None)], ids=["all bands", "all but the first"])
def test_windows_without_a_value_are_not_drawn(land, tmp_path, empty):
    stored = np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype(np.uint8)
    stored[empty, : SIDE // 2] = 0
    save(tmp_path / "half.tif", stored, nodata=0)
    how = {"labels": str(land[0] / "classes.tif"), "draw_windows": "random", **HOW}
    items = RemoteSensing().read(tmp_path / "half.tif", "segmentation", **how).items
    draw = RemoteSensing().drawer(items, ("background", "class 3", "class 5", "class 9"))
    reach = {}
    for item in items:
        reach.setdefault(item.group, []).append(item.decode["window"][1])
    border = [
        row for row, item in enumerate(items) if min(reach[item.group]) < SIDE // 2 < max(reach[item.group]) + WINDOW
    ]
    assert border and all(draw(row, 3).decode["window"][1] + WINDOW > SIDE // 2 for row in border)


# the trainings --------------------------------------------------------------------------------------------------------


def test_methods_that_encode_once_see_one_draw_and_val_and_test_stay_on_the_grid(land):
    sets = {
        how: checked_and_split(read(land[0], "classes.tif", "classification", how)[0], Reporter(quiet=True), 1, 0)[0]
        for how in ("grid", "random")
    }
    grid, drawn = (
        {split: {i.id for i in data.split(split)} for split in ("train", "val", "test")} for data in sets.values()
    )
    assert drawn["val"] == grid["val"] and drawn["test"] == grid["test"]
    assert len(drawn["train"]) == len(grid["train"]) and len(drawn["train"] & grid["train"]) < len(grid["train"]) / 2
    assert all(item.draw is None for item in sets["random"].split("test"))


def test_a_training_of_towers_sees_another_window_in_each_epoch(land):
    folder = land[0]
    data, items, draw = read(folder, "classes.tif", "classification", "random")

    def first_band(decoded, seed):
        return torch.from_numpy(decoded[..., 0].copy())  # the class of each pixel

    def samples(source):
        views = {"light": first_band}
        return Samples(source, frozenset({"pixels", "labels"}), views, lambda texts: torch.zeros(1, 1), seed=3)

    fixed = samples(LabelledSource(items, data.load, (("a",),) * 3))
    fresh = samples(LabelledSource(items, data.load, (("a",),) * 3, draw))
    for row in (0, len(items) - 1):
        assert torch.equal(fixed[0, row]["pixels"], fixed[1, row]["pixels"])
        one = fresh[1, row]
        assert torch.equal(one["pixels"], fresh[1, row]["pixels"])
        values, counts = one["pixels"].unique(return_counts=True)
        assert int(values[counts.argmax()]) == int(data.class_names[one["labels"]].split()[-1])
    assert len({fresh[epoch, 0]["pixels"].numpy().tobytes() for epoch in range(30)}) > 1


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_the_data_sets_of_mm_see_another_window_in_each_epoch(land, tmp_path, task):
    pytest.importorskip("mmseg" if task == "segmentation" else "mmdet", reason="extra open-vocab is not installed")
    from vladapt.domains.open_vocab.data.items_file import write_items
    from vladapt.domains.open_vocab.modules.datasets.detection_dataset import DetectionDataset
    from vladapt.domains.open_vocab.modules.datasets.seeded import SeededDataset
    from vladapt.domains.open_vocab.modules.datasets.segmentation_dataset import SegmentationDataset
    from vladapt.domains.open_vocab.modules.transforms.loading import LoadItemImage, LoadSegmentation

    folder, classes = land
    name, made = {"segmentation": ("classes.tif", SegmentationDataset), "detection": ("rare.gpkg", DetectionDataset)}[
        task
    ]
    data, items, _ = read(folder, name, task, "balanced")
    file = write_items(tmp_path / "items.json", data.with_items(items))
    assert json.loads(file.read_text())["items"][0]["draw"]["how"] == "balanced"
    seeded = SeededDataset(made(items_json=str(file), pipeline=[]), seed=1)
    windows = {}
    for epoch in (0, 1, 0):
        seeded.set_epoch(epoch)
        windows.setdefault(epoch, []).append([tuple(seeded[k]["decode"]["window"]) for k in range(len(seeded))])
    assert windows[0][0] == windows[0][1] != windows[1][0]
    if task == "segmentation":
        sample = LoadSegmentation().transform(LoadItemImage().transform(seeded[3]))
        left, top, wide, high = sample["decode"]["window"]
        values = np.array([int(each.split()[-1]) for each in data.class_names[1:]])[sample["gt_seg_map"] - 1]
        assert np.array_equal(values, classes[top : top + high, left : left + wide])


# refusals -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_drawn_is_one_line(land, tmp_path):
    raster, layer = land[0] / "land.tif", land[0] / "classes.tif"
    how = {**HOW, "draw_windows": "random"}
    with pytest.raises(ConfigError, match="draw_windows"):
        RemoteSensing().read(raster, "classification", labels=str(layer), **{**how, "draw_windows": "some"})
    with pytest.raises(ConfigError, match="--draw-windows random: without blocks of land"):
        RemoteSensing().read(raster, "segmentation", labels=str(layer), **{**how, "block_size": 0})
    points = [shapely.Point(LEFT + 10 * k, TOP - 10 * k) for k in range(5, 140, 9)]
    trees = written(
        tmp_path / "points.gpkg", points, ["oak", "elm"] * (len(points) // 2) + ["oak"] * (len(points) % 2), "Point"
    )
    with pytest.raises(DataError, match=r"points\.gpkg: has points, around which windows lie"):
        RemoteSensing().read(raster, "classification", labels=str(trees), **how)
    (tmp_path / "d/images").mkdir(parents=True)
    (tmp_path / "d/labelTxt").mkdir()
    with pytest.raises(ConfigError, match="give --labels, or omit it"):
        RemoteSensing().read(tmp_path / "d", "detection", **how)


def test_shots_cannot_be_chosen_among_samples_that_are_drawn_anew(land):
    pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
    from vladapt.domains.open_vocab.data.few_shot import draw_shots

    data, items, _ = read(land[0], "classes.tif", "segmentation", "random")
    with pytest.raises(ConfigError, match="--shots 2: samples are drawn anew"):
        draw_shots(replace(data, items=items), 2, 0)

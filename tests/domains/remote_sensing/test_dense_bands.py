"""Windows of rasters with four bands, masks and boxes: statistics of the training windows, nodata, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import vladapt
from vladapt.core.contracts import Boxes, DomainData, Item, Use
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import load_domain, task_class
from vladapt.core.runs import Run
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.band_statistics import band_statistics

rasterio = pytest.importorskip("rasterio")
shapely = pytest.importorskip("shapely")
pyogrio = pytest.importorskip("pyogrio")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

NAMES = ("red", "green", "blue", "nir")
SCALE, OFFSET, SIDE = 1e-4, -0.1, 32
HOW = {"bands": ",".join(NAMES), "window_size": SIDE, "block_size": 0, "overlap": 0.0}


@pytest.fixture
def chips(write_raster, tmp_path):
    """chips(count, kind) -> a folder of rasters of 16 bits with scale, offset and nodata 0, and masks of two classes;
    of each the left columns have no value."""

    def write(counts, kind=np.uint16):
        draw = np.random.default_rng(0)
        for split, count in counts.items():
            for number in range(count):
                stored = draw.integers(1000, 4000, (4, SIDE, SIDE)).astype(kind)
                if split == "test":
                    stored[:] = stored * 3
                stored[:, :, :4] = 0
                file = f"{split}/images/{split}{number}.tif"
                facts = {"scales": (SCALE,) * 4, "offsets": (OFFSET,) * 4, "names": NAMES}
                write_raster(tmp_path / file, stored, nodata=0, left=500_000 + 9_000 * number, **facts)
                mask = tmp_path / split / "masks" / f"{split}{number}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((stored[3] > np.median(stored[3])).astype(np.uint8)).save(mask)
        (tmp_path / "classes.json").write_text('["land", "water"]')
        return tmp_path

    return write


def read(path, task="segmentation", **options):
    data = RemoteSensing().read(path, task, **{**HOW, **options})
    return RemoteSensing().from_training(data, **{**HOW, **options})


def physical(item):
    with rasterio.open(item.source) as raster:
        return raster.read() * SCALE + OFFSET


def test_the_stretch_and_statistics_are_of_the_training_windows_alone(chips):
    folder = chips({"train": 3, "val": 1, "test": 2})
    data = read(folder)
    values = np.stack([physical(item)[:, :, 4:] for item in data.split("train")])  # (N, 4, H, W - 4)
    low, high = np.percentile(values, (2, 98), axis=(0, 2, 3))
    assert np.allclose(np.reshape(data.reading["stretch"], (-1, 2)).T, (low, high), atol=1e-5)
    shown = ((values - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)
    mean, std = RemoteSensing().channel_statistics(data.split("train"))
    assert np.allclose(mean, shown.mean(axis=(0, 2, 3)), atol=1e-4)
    assert np.allclose(std, shown.std(axis=(0, 2, 3)), atol=1e-4)
    assert not np.allclose(mean, RemoteSensing().channel_statistics(data.split("test"))[0], atol=0.1)
    fixed = read(folder, stretch=[0, 1] * 4)
    assert "stretch" not in fixed.reading
    assert band_statistics(fixed.split("train"))[0][0] == pytest.approx(values[:, 0].mean(), abs=1e-4)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_bands_of_any_depth_reach_the_model_without_rounding(chips, kind):
    from vladapt.domains.open_vocab.modules.transforms.loading import LoadItemImage

    data = read(chips({"train": 1}, kind), stretch=[0, 0.5] * 4)
    (item,) = data.items
    results = {"img_path": str(item.source), "decode": dict(item.decode)}
    load = LoadItemImage(to_float32=True, bands=NAMES)
    made = load.transform(dict(results))["img"]
    wanted = np.where(physical(item) == OFFSET, 0, (physical(item) / 0.5).clip(0, 1)).transpose(1, 2, 0)
    assert made.dtype == np.float32 and np.allclose(made, 255 * wanted, atol=1e-3)
    filled = LoadItemImage(to_float32=True, bands=NAMES, fill=(1.5, 2.5, 3.5, 4.5)).transform(dict(results))["img"]
    assert (filled[:, :4] == (1.5, 2.5, 3.5, 4.5)).all() and np.array_equal(filled[:, 4:], made[:, 4:])
    with pytest.raises(DataError, match=r"train0.tif: has 4 channels, but the model reads red, green, blue"):
        LoadItemImage().transform(dict(results))
    with pytest.raises(DataError, match=r"is read by the bands red,green,blue,nir, but the model reads nir, red"):
        LoadItemImage(bands=("nir", "red", "green", "blue")).transform(dict(results))


def test_pixels_without_a_value_are_ignored_in_masks(chips):
    from vladapt.domains.open_vocab.modules.transforms.loading import LoadSegmentation

    data = read(chips({"train": 2}))
    item = data.items[0]
    mask = data.load_mask(item)
    assert (mask[:, :4] == 255).all() and set(np.unique(mask[:, 4:])) == {0, 1}
    results = {"img_path": str(item.source), "decode": dict(item.decode), "seg_map_path": str(item.target.file)}
    learned = LoadSegmentation().transform({**results, "mask_table": data.load_mask.as_data()})["gt_seg_map"]
    assert (learned == mask).all()


def test_boxes_without_values_are_ignored_and_windows_without_any_left_out(write_raster):
    from vladapt.domains.remote_sensing.objects import with_values

    values = np.full((4, 24, 64), 9, np.uint16)
    values[:, :, :40] = 0
    file = write_raster("yard.tif", values, nodata=0)
    boxes = (1.0, 1.0, 5.0, 5.0), (3.0, 3.0, 20.0, 9.0), (2.0, 2.0, 7.0, 8.0)
    target = Boxes(boxes, (0, 1, 0), ignored=(False, False, True))
    items = [
        Item(f"yard.tif#0_{left}", file, {"window": [left, 0, 24, 24], "bands": "1,2,3,4"}, target=target)
        for left in (0, 30, 40)
    ]
    data = with_values(DomainData(items, ("roof", "pond"), RemoteSensing().decode, kind="boxes"))
    assert [item.id for item in data.items] == ["yard.tif#0_30", "yard.tif#0_40"]
    assert [item.target.ignored for item in data.items] == [(True, False, True), (False, False, True)]
    assert data.notes == ["Windows in which the raster has no value, left out: 1."]
    full = write_raster("full.tif", values)
    data = with_values(data.with_items([item.with_(source=full) for item in items]))
    assert [item.target for item in data.items] == [target] * 3


def test_a_fit_on_four_bands_maps_a_raster_but_for_nodata(chips, write_raster, small_clip_spec, tmp_path):
    folder = chips({"train": 2, "test": 1})
    sets = ("plan.model.neck.out_channels=32", "plan.model.decode_head.in_channels=[32,32,32,32]")
    sets += ("plan.model.decode_head.channels=32", "plan.train_dataloader.batch_size=2")
    flags = {"domain": "remote-sensing", "task": "segmentation", "data.path": str(folder), "adapter.epochs": 1}
    flags |= {"backbone": small_clip_spec, "workers": 0, "out": str(tmp_path / "runs"), "device": "cpu"}
    flags |= {f"data.{key}": value for key, value in HOW.items()}
    run = vladapt.fit(resolve(recipe="open-vocab/fpn", sets=sets, flags=flags)).run
    kept = json.loads((run / "run.json").read_text())
    mean, std = RemoteSensing().channel_statistics(read(folder).split("train"))
    given = kept["plan"]["model"]["data_preprocessor"]
    assert np.allclose(given["mean"], np.multiply(mean, 255)) and np.allclose(given["std"], np.multiply(std, 255))
    assert np.allclose(kept["recipe"]["data"]["stretch"], read(folder).reading["stretch"])
    assert "nir started from zero" in " ".join(kept["notes"])

    stored = np.full((4, 40, 70), 3000, np.uint16)
    stored[:, :10] = 0
    scene = write_raster("new/scene.tif", stored, nodata=0, names=NAMES, scales=(SCALE,) * 4, offsets=(OFFSET,) * 4)
    of_three = write_raster("new/three.tif", stored[:3], names=NAMES[:3])
    photo = tmp_path / "new" / "photo.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photo)
    made = vladapt.predict(run, [str(tmp_path / "new")], out=str(tmp_path / "found"))
    assert dict(made.skipped) == {
        str(
            of_three
        ): f"{of_three}: has no band 'nir', only red, green, blue; give a raster with the bands red, green, blue, nir",
        str(photo): f"{photo}: an image, which has no band nir; give a raster with the bands red, green, blue, nir",
    }
    (row,) = made.rows()
    assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
    with rasterio.open(tmp_path / "found" / "maps" / "scene.tif") as written, rasterio.open(scene) as source:
        assert (written.crs, written.transform, written.nodata) == (source.crs, source.transform, 255)
        classes, tags = written.read(1), written.tags()
        assert written.descriptions == ("class",) and written.colormap(1)[255][3] == 0
    assert (classes[:10] == 255).all() and (classes[10:] < 2).all()
    assert tags["class_1"] == "water" and tags["bands"] == "red,green,blue,nir"
    assert tags["scales"] == "0.0001,0.0001,0.0001,0.0001" and tags["offsets"] == "-0.1,-0.1,-0.1,-0.1"
    assert np.allclose([float(v) for v in tags["stretch"].split(",")], kept["recipe"]["data"]["stretch"], rtol=1e-4)
    with pytest.raises(
        DataError,
        match=r"three.tif: has no band 'nir', only red, green, blue; give a raster with the bands red, green, blue",
    ):
        vladapt.predict(run, [str(of_three)])
    with pytest.raises(CapabilityError, match="an export takes pictures of three channels"):
        vladapt.export(run, tmp_path / "exported")


@pytest.mark.thorough
def test_a_detector_of_mm_learns_boxes_on_five_bands(write_raster, tmp_path):
    """A ResNet of mmdet in the packaged recipe; a run of it is not served, which is for pictures."""
    values = np.random.default_rng(0).integers(1, 9, (5, 64, 128)).astype(np.float32)
    values[4, 8:20, 8:20] = values[4, 40:52, 80:92] = 40
    raster = write_raster("yard.tif", values, names=(*NAMES, "swir16"))
    areas = [
        shapely.box(500_000 + 10 * x, 5_000_000 - 10 * (y + 12), 500_000 + 10 * (x + 12), 5_000_000 - 10 * y)
        for x, y in ((8, 8), (80, 40))
    ]
    layer, names = tmp_path / "yard.gpkg", {"field_data": [np.array(["roof", "roof"], object)], "fields": ["label"]}
    pyogrio.raw.write(
        layer, geometry=shapely.to_wkb(np.array(areas)), geometry_type="Polygon", crs="EPSG:32633", **names
    )
    resnet = {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": False}
    heads = {"neck": {"in_channels": [8, 16, 32, 64]}, "roi_head": {"bbox_head": {"fc_out_channels": 16}}}
    plan = {"model": {"backbone": {"_delete_": True, **resnet}, **heads}, "train_dataloader": {"batch_size": 2}}
    flags = {"domain": "remote-sensing", "task": "detection", "data.path": str(raster), "data.labels": str(layer)}
    flags |= {"data.bands": "red,green,blue,nir,swir16", "data.window_size": 64, "data.block_size": 0}
    flags |= {"data.overlap": 0.0, "adapter.epochs": 1, "workers": 0, "out": str(tmp_path / "runs"), "device": "cpu"}
    file = tmp_path / "boxes.py"
    base = load_domain("open-vocab").recipes["faster-rcnn"]
    file.write_text(f"_base_ = {str(base)!r}\n" + "\n".join(f"{key} = {value!r}" for key, value in plan.items()))
    run = vladapt.fit(resolve(config=str(file), flags=flags)).run
    kept = json.loads((run / "run.json").read_text())
    assert kept["plan"]["model"]["backbone"]["type"] == "vladapt.WidenedBackbone"
    assert "nir, swir16 started from zero" in " ".join(kept["notes"])
    (row,) = vladapt.predict(run, [str(raster)], out=str(tmp_path / "found")).rows()
    assert row["size"] == [64, 128] and (tmp_path / "found" / "found.gpkg").exists() == bool(row["boxes"])
    use = Use(run=Run.open(run))
    with pytest.raises(CapabilityError, match="nir, swir16, and vladapt serve takes pictures of three channels"):
        task_class("detection")(RemoteSensing()).served(use, None)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"bands": "red,green,blue,swir16"},
            DataError,
            "has no band 'swir16', only red, green, blue, nir; give a raster",
        ),
        ({"bands": "1,2,3,4,5"}, DataError, "has no band 5, only 4; give a raster with the bands 1, 2, 3, 4, 5"),
        ({"bands": "1,2,3", "band_start": "mean"}, ConfigError, "--band-start mean: is for four or more --bands"),
    ],
)
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_bands_that_are_not_there_are_refused_in_one_line(chips, task, options, error, words):
    folder = chips({"train": 1})
    if task == "detection":
        image = folder / "train" / "images" / "train0.tif"
        boxes = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 9, 9], "id": 1, "area": 81, "iscrowd": 0}
        listed = {"images": [{"id": 1, "file_name": "images/train0.tif", "width": SIDE, "height": SIDE}]}
        folder = image.parent.parent
        listed |= {"annotations": [boxes], "categories": [{"id": 1, "name": "roof"}]}
        (folder / "boxes.json").write_text(json.dumps(listed))
    with pytest.raises(error, match=words):
        read(folder, task, **options)


def test_images_among_rasters_are_listed_for_the_band_they_lack(chips):
    folder = chips({"train": 2})
    for kind in ("images", "masks"):
        pixels = np.zeros((SIDE, SIDE, *[3] * (kind == "images")), np.uint8)
        Image.fromarray(pixels).save(folder / "train" / kind / "x.png")
    data = read(folder)
    assert len(data.items) == 2 and "an image, which has no band nir" in dict(data.skipped)["train/images/x.png"]

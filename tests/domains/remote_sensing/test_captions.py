"""Captioned images: tables in UTF-8 and GB18030, Karpathy's JSON, RS5M's shards."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from vladapt.core.errors import DataError
from vladapt.domains.remote_sensing import RemoteSensing

TEXTS = {"b.png": ["two planes", "planes on an apron"], "a.jpg": ["许多绿色的树", "a forest"], "c.jpg": ["a river"]}


def read(path, **options):
    return RemoteSensing().read(path, "retrieval", **options)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8))


@pytest.fixture
def images(tmp_path):
    """Three images in the folder RSICD_images."""
    for seed, name in enumerate(TEXTS):
        file = tmp_path / "RSICD_images" / name
        file.parent.mkdir(exist_ok=True)
        picture(seed).save(file)
    return tmp_path


def write_table(folder, encoding="utf-8", header=("filename", "title"), rows=None):
    """Rows of one image do not stand together."""
    rows = rows or [(name, texts[i]) for i in range(2) for name, texts in TEXTS.items() if i < len(texts)]
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    file = folder / "rsicd_test.csv"
    file.write_bytes(text.getvalue().encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_tables_in_both_encodings_say_the_same(images, encoding):
    data = read(write_table(images, encoding))
    assert data.kind == "captions" and {item.id: list(item.captions()) for item in data.items} == TEXTS
    assert all(data.load(item).shape == (12, 16, 3) for item in data.items)
    assert bool(data.notes) == (encoding == "gb18030")


@pytest.mark.parametrize("header", [("filename", "title"), ("image_name", "caption"), ("Path", "Text")])
def test_columns_are_found_by_the_usual_names(images, header):
    assert len(read(write_table(images, header=header)).items) == 3


def test_karpathys_json_keeps_its_splits(images):
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in TEXTS[name]]}
        for name, split in zip(TEXTS, ("train", "val", "test"))
    ]
    file = images / "dataset_rsicd.json"
    file.write_text(json.dumps({"images": entries, "dataset": "rsicd"}))
    (images / "RSICD_images").rename(images / "images")
    data = read(file)
    assert {item.source.name: (item.split, list(item.captions())) for item in data.items} == {
        name: (split, TEXTS[name]) for name, split in zip(TEXTS, ("train", "val", "test"))
    }


def write_shard(file, names):
    with tarfile.open(file, "w") as tar:
        for number, name in enumerate(names):
            pixels = io.BytesIO()
            picture(number).save(pixels, "PNG")
            members = {"img_content": pixels.getvalue(), "img_name": name.encode(), "caption": f"scene {name}".encode()}
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_shards_of_rs5m_are_read_sample_by_sample(tmp_path):
    write_shard(tmp_path / "pub11-train-0000.tar", ["x", "y"])
    write_shard(tmp_path / "pub11-val-0000.tar", ["z"])
    data = read(tmp_path)
    assert [item.captions() for item in data.items] == [("scene x",), ("scene y",), ("scene z",)]
    assert np.array_equal(data.load(data.items[1]), np.asarray(picture(1)))
    assert [item.split for item in data.items] == ["train", "train", "val"]
    assert all(item.apart for item in data.items)


def test_captions_without_images_are_one_line(images, tmp_path):
    rows = [("x.jpg", "a pond"), ("y.jpg", "a lake")]
    with pytest.raises(DataError, match=r"no image of its 2 captions can be read \(x\.jpg: no such file"):
        read(write_table(images, rows=rows))
    some = read(write_table(images, rows=[*rows, ("a.jpg", "a forest")]))
    assert [name for name, _ in some.skipped] == ["x.jpg", "y.jpg"] and len(some.items) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", r"no column of the image \(filename, title, \.\.\.\); it has: a, b"),
        (b"filename,b\n1,2\n", "no column of the caption"),
        (b"filename,title\nx.jpg\n", "a row has 1 cells for 2 columns"),
        (b"filename,title\n,\n", "no row has an image and a caption"),
        (b"\xff\xff\x00filename\xff", "neither UTF-8 nor GB18030"),
        (b"", "no column of the image"),
    ],
)
def test_tables_that_are_none_are_one_line(images, content, words):
    file = images / "t.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(file)


def test_a_json_of_another_set_is_one_line(images):
    file = images / "x.json"
    file.write_text(
        json.dumps({"info": {}, "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []})
    )
    with pytest.raises(DataError, match=r"x\.json"):
        read(file)


def test_a_path_that_leaves_the_folder_is_refused(images):
    (images / "inner").mkdir()
    file = write_table(images / "inner", rows=[("../RSICD_images/a.jpg", "a forest")])
    with pytest.raises(DataError):
        read(file)


def test_the_sample_has_three_captions_for_each_scene():
    data = RemoteSensing().sample("retrieval")
    assert len(data.items) == 132 and {item.split for item in data.items} == {"train", "val", "test"}
    assert all(len(item.captions()) == 3 for item in data.items)
    assert len({text for item in data.items for text in item.captions()}) == 3 * 132


@pytest.fixture
def captioned_rasters(write_raster, tmp_path):
    """12 rasters of 16 bits in four bands and a JSON of Karpathy's that names them."""
    draw, listed = np.random.default_rng(0), []
    for i in range(12):
        split = ("train", "train", "test")[i % 3]
        stored = draw.integers(300 * i, 300 * i + 900, (4, 12, 12)).astype(np.uint16)
        file = write_raster(f"images/{i}.tif", stored, left=5e5 + 9000 * i)
        sentences = [{"raw": f"field number {i}"}, {"raw": f"brightness {i}"}]
        listed.append({"filename": file.name, "split": split, "sentences": sentences})
    file = tmp_path / "dataset_fields.json"
    file.write_text(json.dumps({"images": listed, "dataset": "fields"}))
    return file


@pytest.mark.parametrize("as_table", [False, True])
def test_captioned_rasters_are_read_by_bands_and_one_stretch(captioned_rasters, as_table):
    file = captioned_rasters
    if as_table:
        file = write_table(file.parent, rows=[(f"{i}.tif", f"field {i}") for i in range(12)])
    data = read(file, bands="3,2,1")
    ranges = data.reading["stretch"]
    assert len(ranges) == 6 and all(item.decode["stretch"] == list(ranges) for item in data.items)
    first = next(item for item in data.items if item.source.name == "0.tif")
    import rasterio

    with rasterio.open(first.source) as raster:
        stored = raster.read([3, 2, 1]).astype(float)
    low, high = (np.reshape(side, (3, 1, 1)) for side in (ranges[::2], ranges[1::2]))
    shown = np.clip((stored - low) / (high - low), 0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(data.load(first), shown, atol=1e-6)


def test_a_retrieval_run_keeps_the_stretch_of_its_rasters(captioned_rasters, small_clip_spec, tmp_path):
    import vladapt

    data = {"path": str(captioned_rasters), "bands": "red,green,blue,nir", "sensor": "naip"}
    adapter = {"name": "lora", "epochs": 1, "batch_size": 4}
    how = {"task": "retrieval", "backbone": small_clip_spec, "device": "cpu", "workers": 1}
    done = vladapt.fit(domain="remote-sensing", data=data, adapter=adapter, out=str(tmp_path / "run"), **how)
    kept = json.loads((done.run / "run.json").read_text())["recipe"]["data"]["stretch"]
    computed = read(captioned_rasters, bands="red,green,blue,nir", sensor="naip").reading["stretch"]
    assert kept == list(computed) and len(kept) == 8
    again = vladapt.evaluate(done.run)
    assert again["adapted"] == done.metrics["adapted"]
    assert vladapt.load_backbone(str(done.run / "model.safetensors"), "cpu").channels.names[3] == "nir"

"""Folders of Hugging Face `datasets`: written here by pyarrow as that library writes them, and read back."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from vladapt import DataError, UnknownNameError
from vladapt.domains.natural import Natural

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

CLASSES = ["tabby_cat", "dog"]


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def table(values, labels, names=CLASSES, image="image", label="label"):
    """A table as `datasets` makes it: an image is its bytes and a path, a class a number."""
    images = pa.array([None if v is None else {"bytes": png(v), "path": None} for v in values])
    made = pa.table({image: images, label: pa.array(labels)})
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})} if names else {}
    return made.replace_schema_metadata(noted)


def write(file, made):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(made, file, row_group_size=2)
        return
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=2)


def shades(data):
    return {item.id: int(data.load(item)[0, 0, 0]) for item in data.items}


@pytest.mark.parametrize(
    "places",
    [
        ("train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
    ],
)
def test_images_names_and_splits(tmp_path, places):
    write(tmp_path / places[0], table([10, 20, 30, 40, 50], [0, 1, 0, 1, 1]))
    write(tmp_path / places[1], table([60, 70], [1, 0]))
    data = Natural().read(tmp_path)
    assert data.class_names == ("tabby_cat", "dog")
    train, test = (data.with_items(data.split(split)) for split in ("train", "test"))
    assert [item.class_label() for item in train.items] == [0, 1, 0, 1, 1]
    assert [item.class_label() for item in test.items] == [1, 0]
    assert list(shades(train).values()) == [10, 20, 30, 40, 50]
    assert list(shades(test).values()) == [60, 70]


@pytest.mark.parametrize(
    "place", ["plain_text/train-00000-of-00001.parquet", "plain_text/train/0000.parquet", "data/plain_text/train.arrow"]
)
def test_the_folder_of_a_configuration(tmp_path, place):
    write(tmp_path / place, table([10, 20, 30], [0, 1, 0]))
    write(tmp_path / place.replace("train", "test"), table([40, 50], [1, 0]))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    data = Natural().read(tmp_path)
    assert data.class_names == ("tabby_cat", "dog")
    assert {(item.split, shade) for item, shade in zip(data.items, shades(data).values())} == {
        ("train", 10), ("train", 20), ("train", 30), ("test", 40), ("test", 50),
    }  # fmt: skip


def test_of_several_configurations_one_must_be_given(tmp_path):
    for name in ("partition_1", "partition_2"):
        write(tmp_path / name / "train-00000-of-00001.parquet", table([1, 2], [0, 1]))
    with pytest.raises(DataError, match="holds the configurations partition_1, partition_2; give one of these"):
        Natural().read(tmp_path)
    assert len(Natural().read(tmp_path / "partition_2").items) == 2


def test_a_table_of_features_among_photos_is_no_data_set(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(png(7))
    write(tmp_path / "dog" / "embeddings.parquet", pa.table({"x": [1.0, 2.0]}))
    assert Natural().read(tmp_path).class_names == ("cat", "dog")


def test_an_image_is_told_by_its_bytes_wherever_it_stands(tmp_path):
    write(tmp_path / "train/a.arrow", table([10, 20], [0, 1]))
    write(tmp_path / "test/b.arrow", table([99, 10], [1, 0]))
    digests = [item.decode["digest"] for item in Natural().read(tmp_path).items]
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
def test_a_file_in_the_place_of_another_is_opened_anew(tmp_path, put_in_place, suffix):
    file, stranger = tmp_path / "set" / f"train-0{suffix}", tmp_path / f"other{suffix}"
    write(file, table([10, 20], [0, 1]))
    write(stranger, table([30, 40], [0, 1]))
    data = Natural().read(file.parent)
    assert sorted(shades(data).values()) == [10, 20]
    put_in_place(stranger, file)
    assert sorted(shades(data).values()) == sorted(shades(Natural().read(file.parent)).values()) == [30, 40]


def test_labels_that_are_texts_are_the_classes_sorted(tmp_path):
    write(tmp_path / "a.parquet", table([1, 2, 3], ["zebra", "ant", "zebra"], names=()))
    data = Natural().read(tmp_path)
    assert data.class_names == ("ant", "zebra")
    assert [item.class_label() for item in data.items] == [1, 0, 1]


def test_another_column_and_names_of_the_users(tmp_path):
    made = table([1, 2], [0, 1], names=(), label="kind").append_column("label", pa.array([7, 8]))
    write(tmp_path / "a.parquet", made)
    data = Natural().read(tmp_path, label_column="kind", class_names=("yes", "no"))
    assert data.class_names == ("yes", "no")
    assert list(shades(data).values()) == [1, 2]


def test_an_unusual_column_of_labels_is_enough(tmp_path):
    write(tmp_path / "a.parquet", table([1, 2], ["a", "b"], names=(), label="species"))
    assert list(shades(Natural().read(tmp_path, label_column="species")).values()) == [1, 2]


def test_what_datasets_keeps_beside_its_files_is_no_data(tmp_path):
    for name in ("data-00000-of-00001.arrow", "cache-1234.arrow", "tmpabcd.arrow"):
        write(tmp_path / "train" / name, table([1, 2], [0, 1]))
    assert len(Natural().read(tmp_path).items) == 2


def test_a_hidden_label_is_listed(tmp_path):
    write(tmp_path / "a.arrow", table([1, 2, 3], [0, 1, -1]))
    assert Natural().read(tmp_path).skipped == [("a.arrow#2", "has no label")]


def test_rows_without_an_image_or_a_label_are_listed(tmp_path):
    write(tmp_path / "a.arrow", table([1, None, 3, 4], [0, 1, None, 1]))
    assert Natural().read(tmp_path).skipped == [("a.arrow#1", "has no image"), ("a.arrow#2", "has no label")]


def test_an_image_in_a_file_beside(tmp_path):
    (tmp_path / "one.png").write_bytes(png(5))
    images = pa.array(
        [{"bytes": None, "path": "one.png"}, {"bytes": png(6), "path": None}, {"bytes": None, "path": "../no.png"}]
    )
    write(tmp_path / "a.parquet", pa.table({"image": images, "label": pa.array(["a", "b", "a"])}))
    data = Natural().read(tmp_path)
    assert list(shades(data).values()) == [5, 6]
    assert data.skipped == [("a.parquet#2", "has no image")]


@pytest.mark.parametrize("suffix", [".arrow", ".parquet"])
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_file_is_one_line(tmp_path, suffix, damage):
    file = tmp_path / f"a{suffix}"
    write(file, table([1, 2, 3], [0, 1, 0]))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] if damage == "cut" else bytes(range(256)) * 4)
    with pytest.raises(DataError, match=rf"a\{suffix}: not a readable {suffix[1:]} file"):
        Natural().read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        ([0, 5], CLASSES, "label 5, but there are 2 names"),
        ([0, 1], (), "no names of classes"),
        ([0.5, 1.0], (), "label '0.5' is no class"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, labels, names, said):
    write(tmp_path / "a.parquet", table([1, 2], labels, names=names))
    with pytest.raises(DataError, match=said):
        Natural().read(tmp_path)


def test_a_column_that_is_not_there(tmp_path):
    write(tmp_path / "a.parquet", table([1, 2], [0, 1]))
    with pytest.raises(UnknownNameError, match=r"no column 'lable'.*label"):
        Natural().read(tmp_path, label_column="lable")

"""COCO captions, Karpathy's JSON, person search JSON, and images with texts beside."""

import json

import pytest
from PIL import Image

from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.errors import ConfigError, DataError


def images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco(captions, extra=()):
    """{file name: captions} as COCO's JSON."""
    numbered = list(enumerate(captions.items(), start=1))
    return {
        "images": [{"id": number, "file_name": name} for number, (name, _) in numbered],
        "annotations": [
            *({"image_id": number, "caption": text} for number, (_, texts) in numbered for text in texts),
            *extra,
        ],
    }


def captions(pairs):
    return {pair.id: pair.captions for pair in pairs}


def test_coco_captions_are_grouped_by_image(tmp_path):
    images(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    listed = coco({"a.jpg": ["one", " two "], "images/b.jpg": ["three", ""], "c.jpg": [], "none.jpg": ["x"], "d": [""]})
    pairs = read_pairs(write(tmp_path / "captions.json", listed), split="train")
    assert captions(pairs) == {"images/a.jpg": ("one", "two"), "images/b.jpg": ("three",)}
    assert "Images without a caption, left out: 1." in pairs.notes
    assert pairs.skipped == [("none.jpg", f"no such file below {tmp_path}"), ("d", "no caption")]


def test_a_folder_of_coco_files_has_their_splits(tmp_path):
    images(tmp_path, "train2017/a.jpg", "images/val2017/b.jpg")
    write(tmp_path / "annotations/captions_train2017.json", coco({"a.jpg": ["x"]}))
    write(tmp_path / "annotations/captions_val2017.json", coco({"b.jpg": ["y"]}))
    write(tmp_path / "annotations/instances_val2017.json", {"images": [], "annotations": []})
    pairs = read_pairs(tmp_path)
    assert captions(pairs) == {"train2017/a.jpg": ("x",), "images/val2017/b.jpg": ("y",)}
    assert [pair.split for pair in pairs] == ["train", "val"] and pairs.name == tmp_path.name
    alone = read_pairs(tmp_path / "annotations/captions_val2017.json", split="test")
    assert alone[0].split == "test"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (coco({"a.jpg": ["x"]}, extra=[{"image_id": 1}]), "annotation 2 lacks its image_id or caption"),
        (coco({"a.jpg": ["x"]}, extra=[{"image_id": [], "caption": "y"}]), "annotation 2 lacks"),
        ({"images": [{}], "annotations": [{"image_id": 1, "caption": "y"}]}, "image 1 has no usable id"),
        (coco({"../a.jpg": ["x"]}), "leaves the folder"),
        ({"images": [], "annotations": [{"bbox": []}]}, "JSON of another kind"),
    ],
)
def test_malformed_coco_files_are_refused(tmp_path, content, match):
    images(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=match):
        read_pairs(write(tmp_path / "set" / "captions.json", content))


def test_karpathy_splits_are_kept_and_restval_trains(tmp_path):
    images(tmp_path, "val2014/a.jpg", "images/b.jpg", "Flicker8k_Dataset/c.jpg")
    sentences = [{"raw": "A dog .", "tokens": ["a", "dog"]}, {"tokens": ["one", "cat"]}]
    entries = [
        {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": sentences},
        {"filename": "b.jpg", "split": "test", "sentences": sentences[:1]},
        {"filename": "c.jpg", "split": "val", "sentences": ["plain"]},
        {"filename": "gone.jpg", "split": "val", "sentences": ["plain"]},
    ]
    pairs = read_pairs(write(tmp_path / "dataset_x.json", {"images": entries, "dataset": "x"}))
    assert captions(pairs) == {
        "val2014/a.jpg": ("A dog .", "one cat"),
        "images/b.jpg": ("A dog .",),
        "Flicker8k_Dataset/c.jpg": ("plain",),
    }
    assert [pair.split for pair in pairs] == ["train", "test", "val"] and len(pairs.skipped) == 1
    assert captions(read_pairs(tmp_path)) == captions(pairs)


def test_malformed_karpathy_files_are_refused(tmp_path):
    images(tmp_path, "a.jpg")
    good = {"filename": "a.jpg", "split": "train", "sentences": ["x"]}
    for bad, match in ((3, "image 2 has no list of sentences"), ({**good, "split": "dve"}, "image 2: split 'dve'")):
        with pytest.raises(DataError, match=match):
            read_pairs(write(tmp_path / "dataset.json", {"images": [good, bad]}))


def test_persons_are_classes(tmp_path):
    images(tmp_path, "imgs/cam_a/1.png", "imgs/cam_b/2.png")
    entries = [
        {"split": "train", "captions": ["a man"], "file_path": "cam_a/1.png", "id": 12},
        {"split": "test", "captions": ["a woman", "she"], "img_path": "cam_b/2.png", "id": 2},
    ]
    pairs = read_pairs(write(tmp_path / "reid_raw.json", entries))
    assert pairs.class_names == ("2", "12") and pairs.labels.tolist() == [1, 0]
    assert [pair.split for pair in pairs] == ["train", "test"] and pairs[1].captions == ("a woman", "she")


def test_a_person_is_on_one_side(tmp_path):
    names = [f"{person}/{shot}.png" for person in range(10) for shot in range(3)]
    images(tmp_path, *names)
    for number, name in enumerate(names):  # no copies, which would join persons
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name)
    entries = [{"captions": ["x y"], "file_path": name, "id": int(name[0])} for name in names]
    pairs = read_pairs(write(tmp_path / "reid_raw.json", entries))
    sides = {pair.label: {other.split for other in pairs if other.label == pair.label} for pair in pairs}
    assert all(len(side) == 1 for side in sides.values())
    assert sorted(side for (side,) in sides.values()) == ["test", *["train"] * 8, "val"]
    assert "No splits given: 10% of the persons are val, 10% test." in pairs.notes


def test_person_entries_must_be_objects(tmp_path):
    entry = {"captions": ["x"], "file_path": "a.png", "id": 1}
    with pytest.raises(DataError, match="entry 2 is not a JSON object"):
        read_pairs(write(tmp_path / "reid_raw.json", [entry, 5]))


def test_texts_beside_images_are_their_captions(tmp_path):
    images(tmp_path, "train/a.jpg", "val/b.png", "c.jpg", "d.jpg", "e.jpg", "f.jpg")
    texts = {"train/a.txt": "one\n\n two \r\n", "val/b.txt": "\ufeffthree", "c.txt": " \n", "f.txt": "x"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "f.jpg").write_bytes(b"")
    (tmp_path / "notes.md").write_text("not an image")
    pairs = read_pairs(tmp_path)
    assert captions(pairs) == {"train/a.jpg": ("one", "two"), "val/b.png": ("three",)}
    assert [pair.split for pair in pairs] == ["train", "val"]
    assert dict(pairs.skipped) == {
        "c.jpg": "c.txt is empty",
        "d.jpg": "no d.txt next to it",
        "e.jpg": "e.txt is not UTF-8 text",
        "f.jpg": "empty file (0 bytes)",
    }


def test_a_folder_with_one_table_is_that_table(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_text("image,caption\na.jpg,x\n")
    assert captions(read_pairs(tmp_path, split="train")) == {"a.jpg": ("x",)}
    (tmp_path / "more.tsv").write_text("image\tcaption\na.jpg\tx\n")
    with pytest.raises(DataError, match=r"holds list.csv, more.tsv; give one of them"):
        read_pairs(tmp_path)


def test_a_folder_of_several_kinds_of_lists_is_refused(tmp_path):
    images(tmp_path, "a.jpg")
    write(tmp_path / "captions.json", coco({"a.jpg": ["x"]}))
    write(tmp_path / "dataset.json", {"images": []})
    with pytest.raises(DataError, match=r"holds captions.json, dataset.json; give one of them"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("name", ["x.feather", "x.txt", "folder"])
def test_what_is_not_known_is_answered_by_what_is_read(tmp_path, name):
    (tmp_path / "x.feather").write_bytes(b"PAR1")
    (tmp_path / "x.txt").write_text("hello")
    images(tmp_path, "folder/a.jpg")
    with pytest.raises(DataError, match=r"COCO captions.*Karpathy.*WebDataset.*'sample'"):
        read_pairs(tmp_path / name)


def test_packed_files_are_to_be_unpacked(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="packed; unpack it first"):
        read_pairs(tmp_path / "x.tar.gz")


def test_options_of_another_kind_are_refused(tmp_path):
    images(tmp_path, "a.jpg")
    path = write(tmp_path / "captions.json", coco({"a.jpg": ["x"]}))
    with pytest.raises(ConfigError, match="caption_column does not apply to COCO captions"):
        read_pairs(path, caption_column="text")


def test_the_sample_is_read_by_its_name():
    assert read_pairs("sample").name == "sample" and len(read_pairs("sample", split="val")) == 24


# real data --------------------------------------------------------------------------------------------------------


def test_real_coco_captions(data_dir):
    pairs = read_pairs(data_dir / "detection_seg" / "coco_val128")
    assert len(pairs) == 77 and not pairs.skipped and pairs.fields == {"several_captions"}
    assert sum(len(pair.captions) for pair in pairs) > 380
    assert pairs.load_image(0).shape == (426, 640, 3) and pairs.splits == ("train", "val", "test")


def test_real_person_captions(data_dir):
    pairs = read_pairs(data_dir / "person" / "intel_oneperson_reid")
    assert len(pairs) == 72 and len(pairs.class_names) == 6 and pairs.fields == {"several_captions", "label"}
    assert len(read_pairs(data_dir / "person" / "coco_person_captions").split("val")) == 10


def test_real_groceries_with_their_descriptions(data_dir, tmp_path):
    root = data_dir / "general" / "grocery"
    described = {entry["class"]: entry["description"] for entry in json.loads((root / "classes.json").read_text())}
    rows = [
        {"image": str(file.relative_to(root)), "caption": described[file.parent.name], "label": file.parent.name}
        for file in sorted(root.glob("images/*/*.jpg"))
    ]
    (tmp_path / "grocery.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = read_pairs(tmp_path / "grocery.jsonl", root=root)
    assert len(pairs) == 360 and len(pairs.class_names) == 30 and pairs.fields == {"label"}
    assert [len(pairs.split(name)) for name in pairs.splits] == [288, 36, 36]
    assert pairs.load_image(5).ndim == 3

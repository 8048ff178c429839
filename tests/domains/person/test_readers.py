"""Sets of pictures of people, published ones and those of users; what is wrong with one is told in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.person import Person
from vladapt.domains.person.pedestrian import NOBODY, Pedestrian, cameras_of, identity_numbers
from vladapt.domains.person.readers.camera_names import JUNK, MARKET, camera_in, person_named

REID, SEARCH = "re-identification", "person-search"
SENTENCE = "A man in a red jacket."


def picture(path: Path, side: int = 8, grey: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = sum(map(ord, str(path.name))) % 251 if grey is None else grey
    Image.fromarray(np.full((2 * side, side, 3), grey, np.uint8)).save(path)
    return path


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        picture(folder / name)
    return folder


def told(data) -> dict[str, tuple]:
    """id -> identity, camera, role, split."""
    targets = {item.id: item.target for item in data.items}
    return {i.id: (targets[i.id].identity, targets[i.id].camera, targets[i.id].role, i.split) for i in data.items}


@pytest.fixture
def person() -> Person:
    return Person()


def test_market_drops_junk_and_keeps_distractors(person, tmp_path):
    pictures(
        tmp_path / "Market-1501",
        *("bounding_box_train/0002_c1s1_000451_03.jpg", "bounding_box_train/0002_c2s1_000001_01.jpg"),
        *("query/0001_c1s1_001051_00.jpg", "bounding_box_test/0001_c3s2_000001_00.jpg"),
        *("bounding_box_test/-1_c1s1_000401_03.jpg", "bounding_box_test/0000_c2s1_000151_01.jpg"),
        "bounding_box_test/notes.jpg",
    )
    (tmp_path / "Market-1501/bounding_box_test/Thumbs.db").write_bytes(b"x")
    data = person.read(tmp_path, REID)
    assert told(data) == {
        "bounding_box_train/0002_c1s1_000451_03.jpg": ("2", "1", "", "train"),
        "bounding_box_train/0002_c2s1_000001_01.jpg": ("2", "2", "", "train"),
        "query/0001_c1s1_001051_00.jpg": ("1", "1", "query", "test"),
        "bounding_box_test/0000_c2s1_000151_01.jpg": (None, "2", "gallery", "test"),
        "bounding_box_test/0001_c3s2_000001_00.jpg": ("1", "3", "gallery", "test"),
    }
    assert "Junk pictures (identity -1), left out: 1." in data.notes and any("Distractors" in n for n in data.notes)
    assert [name for name, _ in data.skipped] == ["bounding_box_test/notes.jpg"]
    assert identity_numbers(data.items)[3] == NOBODY and cameras_of(data.items)[-1] == "3"
    assert data.items[0].group == "2" and data.items[3].group is None and data.items[0].target.time == "451"
    assert data.load(data.items[0]).shape == (16, 8, 3)
    small = person.read(tmp_path, REID, max_pixels=100)
    with pytest.raises(DataError, match="--max-pixels"):
        small.load(small.items[0])
    with pytest.raises(DataError, match="which person-search cannot use"):
        person.read(tmp_path, SEARCH)
    with pytest.raises(ConfigError, match=r"data\.root: does not apply to"):
        person.read(tmp_path, REID, root="x")


def test_duke_and_msmt17(person, tmp_path):
    duke = pictures(tmp_path / "duke", "bounding_box_train/0005_c2_f0046985.jpg", "query/0006_c1_f0000001.jpg")
    pictures(duke, "bounding_box_test/0006_c8_f0000002.jpg")
    assert told(person.read(duke, REID))["bounding_box_test/0006_c8_f0000002.jpg"] == ("6", "8", "gallery", "test")
    msmt = tmp_path / "MSMT17_V1"
    lists = {
        "train": ("train/0000/0000_000_01_0303morning_0015_0.jpg", 0),
        "val": ("train/0000/0000_001_05_0303noon_0020_0.jpg", 0),
        "query": ("test/0000/0000_000_02_0303morning_0001_0.jpg", 0),
        "gallery": ("test/0000/0000_001_14_0303morning_0001_0.jpg", 0),
    }
    for name, (path, number) in lists.items():
        picture(msmt / path)
        (msmt / f"list_{name}.txt").write_text(f"{path.partition('/')[2]} {number}\n")
    data = person.read(msmt, REID)
    assert list(told(data).values()) == [
        ("train 0", "1", "", "train"), ("train 0", "5", "", "train"),
        ("test 0", "2", "query", "test"), ("test 0", "14", "gallery", "test"),
    ]  # fmt: skip
    assert any("they are used for training too" in note for note in data.notes)
    (msmt / "list_query.txt").write_text("0000/strange.jpg 0\n")
    with pytest.raises(DataError, match=r"list_query\.txt line 1: .* is not PATH PERSON"):
        person.read(msmt, REID)


def test_cuhk03_by_its_new_protocol(person, tmp_path):
    names = ["1_001_1_01.png", "1_001_2_06.png", "1_002_1_01.png", "1_002_2_06.png"]
    pictures(tmp_path / "images_labeled", *names)
    pictures(tmp_path / "images_detected", names[0], *names[2:])
    facts = {"filelist": np.array([[name] for name in names], object), "labels": [[1], [1], [2], [2]]}
    protocol = {"train_idx": [[1], [2]], "query_idx": [[3]], "gallery_idx": [[4]], **facts}
    savemat(tmp_path / "cuhk03_new_protocol_config_labeled.mat", protocol)
    data = person.read(tmp_path, REID)
    assert list(told(data).values()) == [
        ("1", "1", "", "train"), ("1", "2", "", "train"), ("2", "1", "query", "test"), ("2", "2", "gallery", "test"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"config_detected\.mat: no such file; omit --detected"):
        person.read(tmp_path, REID, detected=True)
    savemat(tmp_path / "cuhk03_new_protocol_config_detected.mat", protocol)
    detected = person.read(tmp_path, REID, detected=True)
    assert len(detected.items) == 3 and [name for name, _ in detected.skipped] == ["1_001_2_06.png"]
    savemat(tmp_path / "cuhk03_new_protocol_config_labeled.mat", {**protocol, "query_idx": [[9]]})
    with pytest.raises(DataError, match="query_idx names picture 9 of 4"):
        person.read(tmp_path, REID)
    (tmp_path / "cuhk03_new_protocol_config_labeled.mat").write_bytes(b"no matlab")
    with pytest.raises(DataError, match="not a readable MATLAB file"):
        person.read(tmp_path, REID)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("ann/1.png", "ann/2.png", "bob/x.png"), [("ann", "", "", ""), ("ann", "", "", ""), ("bob", "", "", "")]),
        (("images/7/cam3/1.png", "images/7/cam_a/1.png", "images/8/cam3/1.png", "images/8/cam_a/1.png"),
         [("7", "3", "", ""), ("7", "a", "", ""), ("8", "3", "", ""), ("8", "a", "", "")]),
        (("train/a/c1_1.png", "train/a/c2_1.png", "query/b/c1_1.png", "gallery/b/c2_1.png"),
         [("b", "2", "gallery", "test"), ("b", "1", "query", "test"),
          ("a", "1", "", "train"), ("a", "2", "", "train")]),
    ],
    ids=["plain", "container", "roles"],
)  # fmt: skip
def test_a_folder_per_person(person, tmp_path, names, wanted):
    assert list(told(person.read(pictures(tmp_path, *names), REID)).values()) == wanted


def test_a_table_of_pictures(person, tmp_path):
    pictures(tmp_path / "imgs", "a.png", "b.png", "c.png", "d.png")
    rows = ["Image,Person ID,Camera,Time,Split,Role", "a.png,p1,north,2024-05-01T10:00,test,query"]
    rows += ["b.png,p1,south,17.5,test,gallery", "c.png,,south,,test,gallery", "d.png,-1,south,,test,gallery"]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    data = person.read(tmp_path / "people.csv", REID)
    assert list(told(data).values()) == [
        ("p1", "north", "query", "test"), ("p1", "south", "gallery", "test"), (None, "south", "gallery", "test"),
    ]  # fmt: skip
    assert [item.target.time for item in data.items] == ["2024-05-01T10:00", "17.5", ""]
    with pytest.raises(DataError, match="no picture has a caption, which person-search needs"):
        person.read(tmp_path / "people.csv", SEARCH)


def test_a_jsonl_of_captions(person, tmp_path):
    pictures(tmp_path / "far", "a.png", "b.png")
    rows = [{"image": "a.png", "identity": 1, "captions": [SENTENCE, "In red."]}, {"image": "b.png", "identity": 2}]
    rows.append({"image": "b.png", "identity": 2, "captions": "A woman."})
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = person.read(tmp_path / "people.jsonl", SEARCH, root=str(tmp_path / "far"))
    assert [item.captions() for item in data.items] == [(SENTENCE, "In red."), ("A woman.",)]
    assert data.kind == "captions" and [item.group for item in data.items] == ["1", "2"]
    with pytest.raises(DataError, match="none of the 3 images that it lists can be read"):
        person.read(tmp_path / "people.jsonl", SEARCH)


@pytest.mark.parametrize(
    ("file", "key", "folder", "split"),
    [
        ("reid_raw.json", "file_path", "imgs", "train"),
        ("ICFG-PEDES.json", "file_path", "imgs", "test"),
        ("data_captions.json", "img_path", "imgs", "val"),
        ("synthpedes_dataset.json", "file_path", "", None),
    ],
)
@pytest.mark.parametrize("task", [SEARCH, REID])
def test_published_lists_of_captions(person, tmp_path, file, key, folder, split, task):
    picture(tmp_path / folder / "cam_a/001_45.bmp")
    entry = {"id": 7, key: "cam_a/001_45.bmp", "captions": [SENTENCE, SENTENCE], "processed_tokens": [["a"]]}
    entry |= {"split": split} if split else {"attributes": ["man,black hair"], "prompt_caption": [SENTENCE]}
    (tmp_path / file).write_text(json.dumps([entry]))
    data = person.read(tmp_path, task)
    (item,) = data.items
    assert item.target == Pedestrian("7", "a", texts=(SENTENCE,)) and item.split == (split or "")
    assert data.kind == ("captions" if task == SEARCH else "identities")


@pytest.mark.parametrize("task", [SEARCH, REID])
@pytest.mark.parametrize("name", ["intel_oneperson_reid", "coco_person_captions"])
def test_real_sets(person, data_dir, task, name):
    data = person.read(data_dir / "person" / name, task)
    assert not data.skipped and all(item.captions() for item in data.items)
    cameras = {item.target.camera for item in data.items}
    assert (len(data.items), cameras) == {"intel": (72, {"1"}), "coco_": (10, {""})}[name[:5]]
    assert data.load(data.items[0]).ndim == 3


def detections(path: Path, **boxes) -> Path:
    """A detector's list of results: name -> boxes."""
    rows = [{"image_id": n, "category_id": 1, "bbox": box, "score": 0.9} for n, some in boxes.items() for box in some]
    path.write_text(json.dumps(rows))
    return path


def test_people_are_cut_from_photographs(person, tmp_path):
    folder = pictures(tmp_path / "set", "ann/a1.png", "ann/a2.png", "bob/b1.png")
    boxes = detections(tmp_path / "boxes.json", a1=[[1, 2, 4, 6]], a2=[[0, 0, 4, 4], [2, 2, 4, 4]], b1=[[-3, 0, 6, 9]])
    data = person.read(folder, REID, detections=str(boxes))
    assert [data.load(item).shape for item in data.items] == [(6, 4, 3), (9, 3, 3)]
    ((name, reason),) = data.skipped
    assert name == "ann/a2.png" and "2 people in it" in reason and data.items[0].group == "ann"
    new = person.read_images([folder], crops=str(boxes))  # as earlier runs and indexes say it
    assert [item.id.partition("#")[2] for item in new.items] == ["person1", "person1", "person2", "person1"]
    assert len(person.read_images([folder]).items) == 3
    names = ["person", "dog"]
    whole = {
        "images": [{"id": 1, "file_name": "ann/a1.png"}],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names)],
    }
    whole["annotations"] = [{"image_id": 1, "category_id": i, "bbox": [0, 0, 2 + i, 5]} for i in (1, 0)]
    (tmp_path / "coco.json").write_text(json.dumps(whole))
    only = person.read_images([folder], detections=str(tmp_path / "coco.json"))
    assert [only.load(item).shape for item in only.items] == [(5, 2, 3)]  # the dog is no person


def broken_sets(folder: Path) -> dict[str, tuple[Path, str, str]]:
    """What is wrong -> the set, the task, the words of the message."""
    a, b = "a/1.png", "a/2.png"
    pictures(folder / "splits/train", a)
    pictures(folder / "splits/test", b)
    pictures(folder, "one.png")
    texts = {
        "none.csv": "image,identity,caption\nmissing.png,1,A man.",
        "columns.csv": "picture,who\none.png,1",
        "role.csv": "image,identity,role\none.png,1,probe",
        "time.csv": "image,identity,time\none.png,1,yesterday",
        "split.csv": "image,identity,split\none.png,1,holdout",
        "twice.csv": "image,identity\none.png,1\none.png,2",
        "caption.jsonl": json.dumps({"image": "one.png", "identity": 1, "captions": [3]}),
        "coco.json": json.dumps({"images": [], "annotations": [], "categories": []}),
        "other.json": json.dumps([{"question": "why", "answer": "so"}]),
        "dict.json": "{}",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    for name in ("a.csv", "b.csv"):
        (picture(folder / "two/one.png").parent / name).write_text("image,identity\none.png,1")
    return {
        "two tables": (folder / "two", REID, r"holds a.csv, b.csv; give one of them"),
        "an identity in two splits": (folder / "splits", REID, r"identity a is in test \(test/a/2.png\) and in train"),
        "captions without images": (folder / "none.csv", SEARCH, "none of the 1 images that it lists"),
        "no such columns": (folder / "columns.csv", REID, "no column image; it has: picture, who"),
        "a role": (folder / "role.csv", REID, "line 2: role 'probe' is neither query nor gallery"),
        "a time": (folder / "time.csv", REID, "line 2: time 'yesterday' is neither a number nor an ISO date"),
        "a split": (folder / "split.csv", REID, "line 2: split 'holdout' is none of train, val, test"),
        "listed twice": (folder / "twice.csv", REID, "line 3: the picture is listed before as 1"),
        "no text": (folder / "caption.jsonl", SEARCH, r"captions are \[3\]; give a text"),
        "boxes": (folder / "coco.json", SEARCH, "COCO annotations, not a list of objects with id"),
        "another JSON": (
            folder / "other.json",
            SEARCH,
            r"the JSON of another set \(its entries have question, answer\)",
        ),
        "an object": (folder / "dict.json", SEARCH, "not a list of objects with id"),
        "nothing": (folder / "empty", REID, "nothing that re-identification can use; give a folder with"),
        "no path": (folder / "nowhere", REID, "no such file or folder; give a folder with bounding_box_train"),
    }


def test_what_is_wrong_is_told_in_one_line(person, tmp_path):
    for path, task, words in broken_sets(tmp_path).values():
        with pytest.raises(DataError, match=words) as raised:
            person.read(path, task)
        assert path.name in str(raised.value)


def test_wrong_crops_are_told_in_one_line(person, tmp_path):
    folder = pictures(tmp_path / "set", "ann/a1.png", "bob/b1.png")
    for name, boxes, words in (
        (
            "outside",
            {"a1": [[30, 0, 5, 5]]},
            r"the box \[30, 0, 5, 5\] of ann/a1.png lies outside the picture of 8 x 16",
        ),
        ("strangers", {"zed": [[0, 0, 2, 2]]}, "none of its 1 images is in the data"),
    ):
        file = detections(tmp_path / f"{name}.json", **boxes)
        with pytest.raises(DataError, match=words):
            person.read(folder, REID, detections=str(file))


@settings(max_examples=30, deadline=None)
@given(st.integers(-1, 9999), st.integers(1, 20), st.integers(1, 9), st.integers(0, 10**6))
def test_names_say_who_and_where(identity, camera, sequence, frame):
    for name in (f"{identity:04d}_c{camera}s{sequence}_{frame:06d}_00", f"{identity:04d}_c{camera}_f{frame:07d}"):
        name = name.replace("-001", "-1")
        match = MARKET.pattern.match(name)
        assert (int(match["identity"]), int(match["camera"]), int(match["frame"])) == (identity, camera, frame)
        assert camera_in(name) == camera_in(f"x/cam{camera}/3") == str(camera) and camera_in(f"scarf_{frame}") == ""


# Names of published sets


@pytest.mark.parametrize(
    ("name", "identity", "camera", "frame", "tracklet"),
    [
        ("0002_c1s1_000451_03", "2", "1", "451", ""),  # Market-1501
        ("0005_c2_f0046985", "5", "2", "46985", ""),  # DukeMTMC-reID, Occluded-Duke
        ("0004_C6_F0061_X103207", "4", "6", "61", ""),  # DukeMTMC-VideoReID
        ("0001C1T0001F001", "1", "1", "1", "1"),  # MARS
        ("0065C5T0012F034", "65", "5", "34", "12"),
        ("0000C6T0101F001", None, "6", "1", "101"),  # of nobody
        ("0012_003_14_0303afternoon_0015_0", "12", "14", "15", ""),  # MSMT17, ICFG-PEDES
        ("2_061_2_08", "2_061", "2", "", ""),  # CUHK03
        ("0007_c14_0031", "7", "14", "31", ""),  # RSTPReid
        ("041_2_c10_015833", "41", "10", "15833", ""),  # LTCC
        ("cam2_person317_00043", "317", "2", "43", ""),  # iLIDS-VID
    ],
)
def test_published_names_say_who_and_where(person, tmp_path, name, identity, camera, frame, tracklet):
    who = person_named(name)
    assert (who.identity, who.camera, who.time, who.tracklet) == (identity, camera, frame, tracklet)
    (item,) = person.read_images([pictures(tmp_path / "all", f"{name}.png") / f"{name}.png"]).items
    assert item.target == who


def test_junk_and_names_of_other_kinds_say_nobody():
    assert person_named("00-1C3T0002F005") == person_named("-1_c3s1_000001_00") == JUNK
    assert [person_named(name) for name in ("12_co_3", "holiday", "2024_05_01", "c1", "0001C1")] == [None] * 5


def test_mars_is_read_with_its_distractors_and_without_junk(person, tmp_path):
    names = ("bbox_train/0001/0001C1T0001F001", "bbox_train/0001/0001C2T0001F002", "bbox_test/0002/0002C1T0001F001")
    more = ("bbox_test/0002/0002C3T0001F001", "bbox_test/00-1/00-1C1T0001F001", "bbox_test/0000/0000C1T0002F001")
    data = person.read(pictures(tmp_path / "mars", *(f"{name}.png" for name in (*names, *more))), REID)
    told = {i.id.rpartition("/")[2][:15]: (i.target.identity, i.target.camera, i.split) for i in data.items}
    assert told == {
        "0001C1T0001F001": ("1", "1", "train"),
        "0001C2T0001F002": ("1", "2", "train"),
        "0002C1T0001F001": ("2", "1", "test"),
        "0002C3T0001F001": ("2", "3", "test"),
        "0000C1T0002F001": (None, "1", "test"),
    }
    assert "Junk pictures (identity -1), left out: 1." in data.notes
    assert data.items[0].target.about()["tracklet"] == "1"


@pytest.mark.parametrize(
    ("names", "people"),
    [
        (
            ("cam_a/person_0001", "cam_b/person_0001", "cam_a/person_0201", "cam_b/person_0201"),
            ["1", "201 of a", "201 of b"],
        ),
        (("cam_a/person_0001/0001", "cam_a/person_0001/0002", "cam_b/person_0001/0001"), ["1"]),
        (
            ("cam1/person001/cam1_person001_00317", "cam2/person001/cam2_person001_00001", "cam2/person003/x"),
            ["1", "3"],
        ),
        (("cam_a/000_45", "cam_b/000_90", "cam_a/001_0", "cam_b/010_180"), ["0", "1", "10"]),
    ],
    ids=["prid", "prid-video", "ilids-vid", "viper"],
)
def test_a_folder_per_camera_is_no_person(person, tmp_path, names, people):
    data = person.read(pictures(tmp_path / "set", *(f"{name}.png" for name in names)), REID)
    assert sorted({item.target.identity for item in data.items}) == people and len(data.items) == len(names)
    assert all(item.id[3:].lstrip("_").startswith(item.target.camera) for item in data.items)


def test_a_word_that_looks_like_a_camera_is_none_and_that_is_said(person, tmp_path):
    folder = pictures(tmp_path / "set", "ann/12_co_3.png", "ann/cam_a.png", "bob/12_co_4.png", "bob/c1_x.png")
    data = person.read(folder, REID)
    assert {item.target.camera for item in data.items} == {""}
    assert data.notes == [
        "No camera is taken from the file names: two cameras that show several people each are needed to tell them "
        "from other words; a table may have a column camera."
    ]
    plain = person.read(pictures(tmp_path / "plain", "ann/12_co_3.png", "bob/4.png"), REID)
    assert not plain.notes and {item.target.camera for item in plain.items} == {""}


@pytest.mark.parametrize("table", [False, True])
def test_two_cameras_that_show_several_people_are_taken(person, tmp_path, table):
    names = [f"{who}/cam_{camera}/{who}.png" for who in ("ann", "bob", "zoe") for camera in "ab"]
    folder = pictures(tmp_path / "set", *names, "zoe/cam_c/1.png")
    if table:
        rows = "".join(f"{name},{name[:3]}\n" for name in names)
        (folder / "people.csv").write_text(f"image,identity\n{rows}")
    data = person.read(folder / "people.csv" if table else folder, REID)
    assert {item.id: item.target.camera for item in data.items}["bob/cam_b/bob.png"] == "b" and not data.notes

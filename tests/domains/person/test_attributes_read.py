"""Attributes of people as their sets are laid out; unknown ones are NaN, a value that stands for nothing is refused."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.domains.person import Person

COLOURS_ABOVE = ("black", "white", "red", "purple", "yellow", "gray", "blue", "green")


def picture(file: Path, shade: int = 90, size: tuple[int, int] = (8, 16)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(file)


def market(folder: Path, variable: str = "market_attribute", **changed) -> Path:
    """Two people to learn from and two to test on, laid out as Market-1501 with its attributes."""
    names = {
        "bounding_box_train": ("0002_c1s1_000451_03", "0007_c2s1_000001_01"),
        "query": ("0010_c1s1_000001_00", "0011_c2s1_000001_00"),
        "bounding_box_test": ("0010_c2s1_000009_01", "0000_c1s1_000001_00", "-1_c1s1_000003_00", "0011_c3s1_000002_00"),
    }
    for place, files in names.items():
        for file in files:
            picture(folder / place / f"{file}.jpg")
    fields = {"gender": [1, 2], "hair": [2, 1], "age": [3, 1], "backpack": [2, 1], "up": [1, 2], "upred": [2, 1]}

    def part(ids):
        named = {name: np.array([[float(v) for v in values]]) for name, values in {**fields, **changed}.items()}
        return {**named, "image_index": np.array([ids], dtype=object)}

    content = {"train": part(["0002", "0007"]), "test": part(["0010", "0011"])}
    savemat(folder / f"{variable}.mat", {variable: content})
    return folder


def known(data, name: str) -> dict[str, float]:
    item = next(item for item in data.items if name in item.id)
    return dict(zip(data.class_names, item.target.attributes, strict=True))


def test_market_attributes_belong_to_identities(tmp_path):
    data = Person().read(market(tmp_path), "attributes")
    assert data.kind == "multilabel" and len(data.items) == 6  # neither junk nor distractors
    assert [item.split for item in data.items].count("train") == 2
    assert any("without attributes" in note for note in data.notes)
    first, second = known(data, "0002"), known(data, "0007")
    assert (first["female"], first["long hair"], first["backpack"], first["short sleeves"]) == (0, 1, 1, 0)
    assert (second["female"], second["long hair"], second["backpack"], second["short sleeves"]) == (1, 0, 0, 1)
    assert [first[age] for age in ("young", "teenager", "adult", "old")] == [0, 0, 1, 0]
    assert first["red upper-body clothing"] == 1 and second["red upper-body clothing"] == 0
    chosen = Person().read(tmp_path, "attributes", class_names=("backpack", "female"))
    assert chosen.class_names == ("backpack", "female") and chosen.items[0].target.attributes == (1, 0)


def test_a_declared_unknown_is_nan_and_another_value_is_refused(tmp_path):
    data = Person().read(market(tmp_path / "a", backpack=[-1, 1]), "attributes")
    assert math.isnan(known(data, "0002")["backpack"]) and known(data, "0007")["backpack"] == 0
    with pytest.raises(DataError, match=r"market_attribute\.mat: 'backpack' of person 0002 is 7; it must be 1 to 2"):
        Person().read(market(tmp_path / "b", backpack=[7, 1]), "attributes")
    (tmp_path / "a" / "market_attribute.mat").write_bytes(b"MATLAB 5.0 no")
    with pytest.raises(DataError):
        Person().read(tmp_path / "a", "attributes")


@pytest.fixture
def table(tmp_path):
    """table(rows, name) -> a table whose pictures are there."""

    def write(text: str, name: str = "attributes.csv") -> Path:
        for number in range(4):
            picture(tmp_path / "images" / f"{number}.png", 40 * number)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_table_has_a_column_per_attribute(table):
    file = table(
        "image,Hat,Backpack,person_id,camera,split\n0.png,1,0,a,c1,train\n1.png,-1,1,a,c2,train\n"
        "2.png,0,,b,c1,test\n3.png,-1,-1,c,c1,test\ngone.png,1,1,d,c1,test\n"
    )
    data = Person().read(file, "attributes")
    assert data.class_names == ("Hat", "Backpack")
    assert [(item.target.identity, item.target.camera, item.split) for item in data.items][:2] == [
        ("a", "c1", "train"),
        ("a", "c2", "train"),
    ]
    values = [item.target.attributes for item in data.items]
    assert values[0] == (1, 0) and math.isnan(values[1][0]) and values[2][0] == 0 and math.isnan(values[2][1])
    assert len(values) == 3 and data.notes == ["Pictures of which no attribute is known, left out: 1."]
    assert data.skipped[0][0] == "gone.png"


@pytest.mark.parametrize(
    ("text", "options", "error", "said"),
    [
        ("image,Hat\n0.png,1\n1.png,2\n", {}, DataError, r"line 3: '2' in column 'Hat'; attributes are 1, 0, or -1"),
        ("image,Hat\n0.png,1\n1.png,-1\n", {}, DataError, r"1 and -1, none is 0; .*data\.absent=-1"),
        ("image,Hat,id\n0.png,1,a\n", {"class_names": ("Hut",)}, UnknownNameError, "has no 'Hut'; did you mean Hat"),
        ("image,Hat,id,split\n0.png,1,a,train\n1.png,0,a,test\n", {}, DataError, "identity a is in train"),
        ("image,Hat\n../0.png,1\n", {}, DataError, "leaves the folder"),
        ("image,Hat\n0.png,1\n", {"detected": True}, ConfigError, "does not apply"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(table, text, options, error, said):
    with pytest.raises(error, match=said):
        Person().read(table(text), "attributes", **options)


def test_a_table_may_say_what_absent_and_unknown_are(table):
    file = table("image,Hat\n0.png,1\n1.png,-1\n2.png,-1\n")
    assert [item.target.attributes[0] for item in Person().read(file, "attributes", absent="-1").items] == [1, 0, 0]
    data = Person().read(table("image,Hat\n0.png,1\n1.png,-1\n2.png,x\n"), "attributes", absent="-1", unknown="x")
    assert [item.target.attributes[0] for item in data.items] == [1, 0]


def celeba(folder: Path, rows: str, suffix: str = ".txt") -> Path:
    for number in range(1, 4):
        picture(folder / "img_align_celeba" / f"00000{number}.jpg")
    (folder / f"list_attr_celeba{suffix}").write_text(rows)
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n")
    return folder


def test_celebas_list_means_absent_by_minus_one(tmp_path):
    rows = "3\n5_o_Clock_Shadow Arched_Eyebrows Male\n000001.jpg -1  1 -1\n000002.jpg  1 -1  1\n000003.jpg -1 -1 -1\n"
    data = Person().read(celeba(tmp_path, rows), "attributes")
    assert data.class_names[0] == "5_o_Clock_Shadow"
    assert [item.target.attributes for item in data.items] == [(0, 1, 0), (1, 0, 1), (0, 0, 0)]
    assert [item.split for item in data.items] == ["train", "val", "test"]
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 5\n000002.jpg 5\n")
    with pytest.raises(DataError, match="identity 5 is in train"):
        Person().read(tmp_path, "attributes")


@pytest.mark.parametrize("value", ["0", "2", ""])
def test_celebas_list_has_no_other_values(tmp_path, value):
    with pytest.raises(DataError, match=r"line 3: '0'|line 3: '2'|line 3: 0 values for 1"):
        Person().read(celeba(tmp_path, f"1\nMale\n000001.jpg {value}\n"), "attributes")


def face_rows() -> list[dict]:
    return [
        {"image": f"{n}.png", "face_caption": f"face {n}", "laion_caption": "x", "face_box": [2, 4, 6 + n, 12]}
        for n in range(4)
    ]


def test_faces_with_captions_are_cut_out(tmp_path):
    for number in range(4):
        picture(tmp_path / f"{number}.png", size=(20, 30))
    (tmp_path / "faces.jsonl").write_text("\n".join(map(json.dumps, face_rows())))
    data = Person().read(tmp_path / "faces.jsonl", "person-search")
    assert data.items[2].captions() == ("face 2",) and data.load(data.items[2]).shape == (8, 6, 3)
    with tarfile.open(tmp_path / "shard-000.tar", "w") as shard:
        for number, row in enumerate(face_rows()):
            for name, content in (
                (f"{number}.png", (tmp_path / f"{number}.png").read_bytes()),
                (f"{number}.txt", b"of the web"),
                (f"{number}.json", json.dumps(row).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    packed = Person().read(tmp_path / "shard-000.tar", "person-search")
    assert {item.captions() for item in packed.items} == {(f"face {n}",) for n in range(4)}
    assert packed.load(next(i for i in packed.items if i.captions() == ("face 3",))).shape == (8, 7, 3)
    row = {**face_rows()[0], "face_box": [6, 4, 2, 12]}
    (tmp_path / "faces.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(face_rows()[1]))
    with pytest.raises(DataError, match="give x0, y0, x1, y1"):
        Person().read(tmp_path / "faces.jsonl", "person-search")


def test_other_columns_of_the_table_are_read_when_asked_for(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.jpg")
    rows = "image,camera,hat,site\na.jpg,c1,1,0\ngone.jpg,c1,0,0\nb.jpg,c2,0,1\n"
    (tmp_path / "attributes.csv").write_text(rows)
    columns = Person().read(tmp_path, "attributes", class_names=["hat"]).columns()
    assert columns.taken == {"image", "hat"}
    assert columns.cells("camera") == {"a.jpg": "c1", "b.jpg": "c2"}
    assert columns.cells("site") == {"a.jpg": "0", "b.jpg": "1"}

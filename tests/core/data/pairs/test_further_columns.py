"""Columns that losses ask for beside the usual ones: numbers, texts and images, kept from tables and shards alike."""

import io
import json
import math
import tarfile

import numpy as np
import pytest
from PIL import Image

from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.record_fields import BrokenRow, numbers_of
from vladapt.core.errors import DataError

COLUMNS = {"Age": "numbers", "traits": "numbers", "paraphrase": "text", "depth": "image"}


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("a", "b", "c", "d")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{name}.png")
        Image.new("RGB", (4, 4), (0, 0, 10 + number)).save(tmp_path / f"{name}_depth.png")
    return tmp_path


def read(folder, records, columns=None, **options):
    lines = "".join(json.dumps({"caption": f"row {n}", **record}) + "\n" for n, record in enumerate(records))
    (folder / "pairs.jsonl").write_text(lines)
    return read_pairs(folder / "pairs.jsonl", split="train", columns=COLUMNS if columns is None else columns, **options)


def rows_of(pairs, column):
    return [pairs.numbers(index, column).tolist() for index in range(len(pairs))]


def test_a_table_keeps_what_is_asked_for(folder):
    first = {"image": "a.png", "age": 31, "traits": [0.25, -1], "paraphrase": ["eins", "uno"], "depth": "a_depth.png"}
    pairs = read(folder, [first, {"image": "b.png", "age": "7", "traits": "0.5, 2", "other": "x"}])
    assert rows_of(pairs, "Age") == [[31.0], [7.0]] and rows_of(pairs, "traits") == [[0.25, -1.0], [0.5, 2.0]]
    assert pairs[0].texts == {"paraphrase": ("eins", "uno")} and pairs[1].texts == {}
    assert pairs.load_column_image(0, "depth")[0, 0].tolist() == [0, 0, 10]
    with pytest.raises(DataError, match=r"b\.png: has no depth"):
        pairs.load_column_image(1, "depth")
    assert pairs.further_columns == {"Age": "numbers", "traits": "numbers"}  # too few rows have the others
    assert read(folder, [first]).further_columns == COLUMNS
    assert not read(folder, [first], columns={}).further_columns and not read(folder, [first], columns={})[0].texts


def test_a_row_without_numbers_is_nan(folder):
    records = [{"image": f"{name}.png"} for name in "abcd"]
    for record, value in zip(records, (None, 2, "", math.nan)):
        record["age"] = value
    pairs = read(folder, records)
    assert np.isnan(rows_of(pairs, "Age")).ravel().tolist() == [True, False, True, True]
    assert pairs.further_columns == {"Age": "numbers"} and len(pairs.skipped) == 0
    assert any("'Age' is missing from 3 of 4 images: used where it is" in note for note in pairs.notes)


def test_what_is_no_number_leaves_its_row_out(folder):
    records = [
        {"image": "a.png", "traits": [1, 2]},
        {"image": "b.png", "traits": "many"},
        {"image": "c.png", "traits": [1, 2, 3]},
        {"image": "d.png", "traits": "[1e999, 1]"},
    ]
    pairs = read(folder, records)
    assert rows_of(pairs, "traits") == [[1.0, 2.0]]
    assert [reason.partition(":")[0] for _, reason in pairs.skipped] == [
        "traits is not a number",
        "traits has 3 numbers, rows before it 2",
        "traits is not finite",
    ]
    missing = read(folder, [{"image": "a.png", "depth": "none.png"}, {"image": "b.png"}])
    assert [reason for _, reason in missing.skipped] == [f"depth none.png: no such file below {folder}"]


def test_rows_of_one_image_have_the_first_numbers_and_all_texts(folder):
    records = [
        {"image": "a.png", "paraphrase": "x"},
        {"image": "b.png", "age": 1, "depth": "b_depth.png"},
        {"image": "a.png", "age": 5, "paraphrase": "y", "depth": "a_depth.png"},
        {"image": "a.png", "age": 6},
    ]
    pairs = read(folder, records)
    assert [pair.id for pair in pairs] == ["a.png", "b.png"] and rows_of(pairs, "Age") == [[5.0], [1.0]]
    assert pairs[0].texts == {"paraphrase": ("x", "y")}
    assert [int(pairs.load_column_image(index, "depth")[0, 0, 2]) for index in (0, 1)] == [10, 11]
    assert rows_of(pairs.select([1, 0]), "Age") == [[1.0], [5.0]]


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_shards_keep_what_their_json_holds(tmp_path):
    def members(start, *values):
        return {
            name: content
            for number, value in enumerate(values, start=start)
            for name, content in (
                (f"{number}.png", png(number)),
                (f"{number}.json", told(number, value)),
            )
        }

    def told(number, value):
        return json.dumps({"caption": f"row {number}", "paraphrase": f"p{number}", "age": value}).encode()

    shard(tmp_path / "s-0.tar", members(0, 4, "many", 6))
    shard(tmp_path / "s-1.tar", members(3, None))
    for _ in range(2):  # walked through, then from the kept index
        pairs = read_pairs(tmp_path, split="train", columns=COLUMNS)
        assert [pair.texts for pair in pairs] == [{"paraphrase": (f"p{n}",)} for n in (0, 2, 3)]
        assert rows_of(pairs, "Age")[:2] == [[4.0], [6.0]] and np.isnan(rows_of(pairs, "Age")[2])
        assert [reason for _, reason in pairs.skipped] == ['Age is not a number: ["many"]']
        assert pairs.further_columns == {"Age": "numbers", "paraphrase": "text"}
    plain = read_pairs(tmp_path, split="train")
    assert len(plain) == 4 and not plain.further_columns  # an index of its own, without the columns
    shard(tmp_path / "s-2.tar", members(4, [1, 2]))
    with pytest.raises(DataError, match=r"s-2\.tar: Age has 2 numbers, in .*s-0\.tar it has 1"):
        read_pairs(tmp_path, columns=COLUMNS)


def test_what_has_no_columns_is_read_as_before():
    assert not read_pairs("sample", columns=COLUMNS).further_columns


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (3, (3.0,)),
        ("3.5", (3.5,)),
        ("1, 2", (1.0, 2.0)),
        ("[1 2]", (1.0, 2.0)),
        ([1, "2"], (1.0, 2.0)),
        (True, (1.0,)),
        (None, ()),
        (" ", ()),
        ("nan", ()),
        ([], ()),
    ],
)
def test_numbers_are_read_as_people_write_them(value, numbers):
    assert numbers_of(value, "age") == numbers


@pytest.mark.parametrize("value", ["a", [1, "a"], {"a": 1}, [[1]], math.inf, [1, math.nan], [None]])
def test_what_is_no_number_is_said(value):
    with pytest.raises(BrokenRow, match=r"^age is no"):
        numbers_of(value, "age")

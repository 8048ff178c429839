"""Tables with a number per image: which column it is, what a cell may hold, and draws from quantile bins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.contracts import Item, Number
from vladapt.core.contracts.domain import NumberReading
from vladapt.core.data import assign_splits, read_numbers
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.sampling import BINS, number_bins, sample_numbers
from vladapt.core.errors import ConfigError, DataError, UnknownNameError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("images")
    for number in range(12):
        Image.fromarray(np.full((4, 4, 3), 20 * number, np.uint8)).save(made / f"{number}.png")
    return made


@pytest.fixture
def table(folder, tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return lambda text, name="table.csv", **options: read_numbers(
        write(text, name), reading=NumberReading(root=str(folder), **options)
    )


def values(data):
    return {item.id: item.target.value for item in data.items}


def test_numbers_are_read_and_rows_without_one_are_counted(table):
    data = table("image,height\n0.png,1.5\n1.png,\n2.png,-3e2\n3.png,nan\n4.png, 7 \n")
    assert values(data) == {"0.png": 1.5, "2.png": -300.0, "4.png": 7.0}
    assert data.kind == "numbers" and data.number_names == {Number.NAME: ("height",)}
    assert any("left out: 2" in note for note in data.notes)


def test_json_lines_hold_numbers_and_null(table):
    lines = [json.dumps({"image": f"{n}.png", "age": age}) for n, age in enumerate((30, 41.5, None))]
    assert values(table("\n".join(lines), "ages.jsonl")) == {"0.png": 30.0, "1.png": 41.5}


def test_a_parquet_table_is_read_as_others_are(folder, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"image": [f"{n}.png" for n in range(6)], "age": [1.5, None, -3.0, math.nan, 7.0, 8.0]}
    columns |= {"patient": ["a", "a", "b", "b", "c", "c"], "crop": [b"x"] * 6, "box": [[1, 2]] * 6}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for path in (tmp_path / "t.parquet", tmp_path):
        data = read_numbers(path, reading=NumberReading(root=str(folder)))
        assert values(data) == {"0.png": 1.5, "2.png": -3.0, "4.png": 7.0, "5.png": 8.0}
        by_id = {item.id: item.group for item in data.items}
        assert by_id["4.png"] == by_id["5.png"] != by_id["0.png"] and data.columns().cells("age")["4.png"] == "7.0"
    pq.write_table(pa.table({**columns, "age": [True] * 6}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet row 1: 'True' in column 'age' is not a number"):
        read_numbers(tmp_path / "t.parquet", reading=NumberReading(root=str(folder)))
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t\.parquet: damaged table"):
        read_numbers(tmp_path / "t.parquet", reading=NumberReading(root=str(folder)))


def test_tabs_and_a_split_and_groups(table):
    rows = [f"{n}.png\t{n}\tp{n // 4}\t{'test' if n >= 8 else 'train'}" for n in range(12)]
    data = table("\n".join(["image\tvalue\tpatient\tsplit", *rows]), "t.tsv")
    assert {item.split for item in data.items} == {"train", "test"}
    assert len({item.group for item in data.items}) == 3


HEIGHTS = "image,height\n0.png,1\n1.png,{}\n2.png,3\n"
TWO_COLUMNS = "image,height,age,note\n0.png,1,10,x\n1.png,2,20,y\n"
REFUSED = {
    "comma": (HEIGHTS.format('"12,5"'), {}, DataError, r"table\.csv line 3: .*'height'.*write 12\.5"),
    "unit": (HEIGHTS.format("1.2 m"), {}, DataError, r"table\.csv line 3: .*'height'.*write 1\.2, without its unit"),
    "none": (HEIGHTS.format("n/a"), {}, DataError, r"table\.csv line 3: .*'height'.*leave the cell empty"),
    **{
        cell: (HEIGHTS.format(cell), {}, DataError, r"table\.csv line 3: .*'height'.*not a number")
        for cell in ("inf", "high", "0x10", "1e999")
    },
    "true": ('{"image": "0.png", "value": true}', {"name": "t.jsonl"}, DataError, "'True' in column 'value'"),
    "either": (TWO_COLUMNS, {}, DataError, r"height and age could each be the number.*'height', 'age'"),
    "neither": ("image,a,b\n0.png,1,x\n1.png,2,y\n", {}, DataError, r"no column is called.*Columns of numbers: 'a'$"),
    "absent": (TWO_COLUMNS, {"target_column": "size"}, UnknownNameError, "--target-column size"),
    "classes": (HEIGHTS.format(2), {"label_column": "height"}, ConfigError, "--label-column"),
    "one": ("image,height\n0.png,1\n1.png,\n", {}, DataError, "1 image with a number"),
}
"""A table and options -> what is said of them."""


@pytest.mark.parametrize(("text", "options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_gives_no_numbers_is_refused(table, text, options, error, words):
    with pytest.raises(error, match=words):
        table(text, **options)


def test_the_column_is_named_or_found_by_its_usual_names(table):
    assert values(table(TWO_COLUMNS, target_column="age")) == {"0.png": 10, "1.png": 20}
    assert values(table(TWO_COLUMNS.replace(",age", ",Target"))) == {"0.png": 10, "1.png": 20}


def test_a_folder_needs_one_table(folder, tmp_path):
    with pytest.raises(DataError, match="regression reads a table"):
        read_numbers(folder)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("image,height\n")
    with pytest.raises(DataError, match=r"it has a\.csv, b\.csv"):
        read_numbers(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_numbers(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="not a table"):
        read_numbers(folder / "0.png")


def test_groups_never_straddle_splits(table):
    rows = [f"{n}.png,{n},p{n // 2}" for n in range(12)]
    data = assign_splits(table("\n".join(["image,value,patient", *rows])), seed=0, hashes=FileHashes())
    splits = {}
    for item in data.items:
        splits.setdefault(item.group, set()).add(item.split)
    assert all(len(of) == 1 for of in splits.values()) and len({s for of in splits.values() for s in of}) == 3


def items_of(numbers):
    return [Item(f"{place}", Path("x"), target=Number(value)) for place, value in enumerate(numbers)]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 5))
def test_bins_hold_as_many_in_the_order_of_numbers_and_shots_come_from_each(numbers, shots, seed):
    items = items_of(numbers)
    bins = number_bins(items, numbers)
    assert len(bins) == min(BINS, len(items)) and sorted(i.id for b in bins for i in b) == sorted(i.id for i in items)
    assert max(map(len, bins)) - min(map(len, bins)) <= 1
    highest = [max(item.target.value for item in part) for part in bins]
    lowest = [min(item.target.value for item in part) for part in bins]
    assert all(high <= low for high, low in zip(highest, lowest[1:]))
    drawn = {item.id for item in sample_numbers(items, numbers, shots, seed)}
    assert all(len(drawn & {item.id for item in part}) == min(shots, len(part)) for part in bins)
    shuffled = sorted(items, key=lambda item: item.rank(9))
    again = sample_numbers(shuffled, [item.target.value for item in shuffled], shots, seed)
    assert {item.id for item in again} == drawn


def test_the_seed_draws_others_and_all_is_all():
    items = items_of(range(50))
    first, second = (sample_numbers(items, range(50), 3, seed) for seed in (1, 2))
    assert len(first) == 15 and first != second
    assert sample_numbers(items, range(50), None, 1) == items
    with pytest.raises(ConfigError, match="--shots 0"):
        sample_numbers(items, range(50), 0, 1)

"""Manifests: columns found, labels of every kind, bad rows named by line."""

import json
import math
import time
from dataclasses import replace

import pytest
from PIL import Image

from vladapt.core.data.images import IMAGE
from vladapt.core.data.manifests import read_manifest
from vladapt.core.data.tables import read_table
from vladapt.core.errors import DataError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for name in ("1.png", "2.png", "3.png", "images/4.png", "images/5.png"):
        Image.new("RGB", (4, 4)).save(root / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    return root


def read(folder, text, name="labels.csv", **options):
    (folder / name).write_text(text, encoding="utf-8")
    return read_manifest(folder / name, **options)


def labels(data):
    return {i.id: data.class_names[i.target.index] for i in data.items}


def refused(folder, text, match, name="labels.csv", **options):
    with pytest.raises(DataError, match=match) as caught:
        read(folder, text, name, **options)
    assert name in str(caught.value)


@pytest.mark.parametrize("image", ["image", "Path", "file", "filename", "image_path", "Image Index"])
@pytest.mark.parametrize("label", ["label", "Class", "category"])
def test_columns_are_found_by_their_usual_names(folder, image, label):
    data = read(folder, f"{image},{label}\n1.png,sick\nimages/4.png,well\n5.png,sick\n")
    assert labels(data) == {"1.png": "sick", "images/4.png": "well", "5.png": "sick"}
    assert data.kind == "labels" and data.class_names == ("sick", "well")
    assert data.load(data.items[2]).shape == (4, 4, 3)


@pytest.mark.parametrize("name, delimiter", [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", ",")])
def test_delimiters_and_byte_order_marks(folder, name, delimiter):
    text = "\ufeff" + "image,label\n1.png,a\n2.png,b\n".replace(",", delimiter)
    assert labels(read(folder, text, name)) == {"1.png": "a", "2.png": "b"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_rows(folder, name):
    rows = [{"image": "1.png", "label": 10}, {"image": "2.png", "label": 9}]
    text = json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, rows))
    data = read(folder, text, name)
    assert data.class_names == ("9", "10") and labels(data) == {"1.png": "10", "2.png": "9"}


def test_split_group_and_caption(folder):
    data = read(
        folder,
        "image,label,split,patient id,caption\n1.png,a,Train,Doe^Jane,a cell\n2.png,b,validation,7,\n3.png,a,,7,\n"
        "images/4.png,b,,8,\n",
    )
    assert [i.split for i in data.items] == ["train", "val", "", ""]
    assert data.items[1].group == data.items[2].group != data.items[0].group
    assert "Doe" not in repr(data.items)
    assert data.items[0].captions() == ("a cell",) and data.items[1].captions() == ()


@pytest.mark.parametrize("cell", ["edema|cyst", "edema; cyst", '"[""edema"", ""cyst""]"'])
def test_several_labels_in_one_cell(folder, cell):
    data = read(folder, f"image,labels\n1.png,{cell}\n2.png,cyst\n3.png,\n")
    assert data.kind == "multilabel" and data.class_names == ("cyst", "edema")
    assert [i.target.values for i in data.items] == [(1.0, 1.0), (1.0, 0.0)]
    assert data.notes[0].startswith("Rows without a label, left out: 1 (write []")


def test_empty_json_list_means_that_no_label_applies(folder):
    rows = [{"image": "1.png", "labels": ["a", "b"]}, {"image": "2.png", "labels": []}]
    data = read(folder, "\n".join(map(json.dumps, rows)), "a.jsonl")
    assert data.items[1].target.values == (0.0, 0.0)


def test_one_column_a_label_with_unknowns(folder):
    data = read(
        folder,
        "Path,Sex,Age,Edema,Cyst\n1.png,F,0,1.0,-1.0\n2.png,M,1,,0.0\n3.png,F,1,1,1\nimages/4.png,F,1,,nan\n",
    )
    assert data.class_names == ("Edema", "Cyst") and data.kind == "multilabel"
    first, second, third = (i.target.values for i in data.items)
    assert first[0] == 1 and math.isnan(first[1])
    assert math.isnan(second[0]) and second[1] == 0
    assert third == (1.0, 1.0)


def test_one_hot_columns_are_single_labels(folder):
    data = read(folder, "image,a,b\n1.png,1,0\n2.png,0,1\n3.png,0,1\n")
    assert data.kind == "labels" and labels(data) == {"1.png": "a", "2.png": "b", "3.png": "b"}
    assert "Columns 'a', 'b' have exactly one 1 in each row: read as one class per image." in data.notes
    several = read(folder, "image,a,b\n1.png,1,1\n2.png,0,1\n3.png,0,1\n")
    assert several.kind == "multilabel" and not any("exactly one" in note for note in several.notes)


def test_given_class_names_choose_columns_and_order(folder):
    text = "image,a,b,noise\n1.png,1,1,0\n2.png,0,1,1\n"
    data = read(folder, text, class_names=["b", "a"])
    assert data.class_names == ("b", "a") and [i.target.values for i in data.items] == [(1.0, 1.0), (1.0, 0.0)]
    refused(folder, text, "no 'c' column", class_names=["a", "c"])
    refused(folder, "image,a,b\n1.png,1,2\n2.png,0,1\n", "line 2: '2'", class_names=["a", "b"])


def test_given_class_names_may_be_meant_by_index(folder):
    data = read(folder, "image,label\n1.png,1\n2.png,0\n", class_names=["well", "sick"])
    assert labels(data) == {"1.png": "sick", "2.png": "well"}


def test_captions_alone(folder):
    data = read(folder, '{"image": "1.png", "captions": ["one", "two"]}\n', "a.jsonl")
    assert data.kind == "captions" and data.items[0].captions() == ("one", "two")


def test_root_says_where_the_images_are(folder, tmp_path):
    (tmp_path / "lists").mkdir()
    data = read(tmp_path / "lists", "image,label\n1.png,a\n2.png,b\n", root=folder)
    assert data.items[0].source == folder / "1.png"
    refused(tmp_path / "lists", "image,label\n1.png,a\n2.png,b\n", "none of its 2 images")


def test_windows_paths_and_absolute_paths_inside(folder):
    data = read(folder, f"image,label\nimages\\4.png,a\n{folder / '1.png'},b\n")
    assert [i.source for i in data.items] == [folder / "images/4.png", folder / "1.png"]


def test_missing_empty_and_foreign_files_are_skipped_and_listed(folder):
    (folder / "empty.png").write_bytes(b"")
    (folder / "a.txt").write_text("x")
    data = read(folder, "image,label\n1.png,a\n2.png,b\nnone.png,a\nempty.png,a\na.txt,b\n")
    assert [name for name, _ in data.skipped] == ["none.png", "empty.png", "a.txt"] and data.total == 5


@pytest.mark.parametrize("column, group", [("auto", "p7"), ("none", None)])
def test_patients_that_files_name_group_rows_unless_nothing_is_to_be_grouped(folder, column, group):
    formats = [replace(IMAGE, group=lambda path, name: "p7")]
    data = read(folder, "image,label\n1.png,a\n2.png,b\n", formats=formats, group_column=column)
    assert [item.group for item in data.items] == [group, group]


def test_repeated_rows_count_once_and_ids_stay_unique(folder):
    data = read(folder, "image,label\n1.png,a\n1.png,a\n1.png,b\n2.png,b\n")
    assert [i.id for i in data.items] == ["1.png", "1.png#row2", "2.png"]
    assert data.notes[0] == "Repeated rows, left out: 1."


@pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "/etc/passwd", "..\\secret.png"])
def test_paths_that_leave_the_folder(folder, path):
    refused(folder, f"image,label\n1.png,a\n{path},b\n", "line 3: .* leaves the folder")


def test_links_that_leave_the_folder(folder, tmp_path):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    refused(folder, "image,label\nlink.png,b\n", "leaves the folder")


@pytest.mark.parametrize(
    "text, match",
    [
        ("picture,label\n1.png,a\n", "no image column.*it has: picture, label"),
        ("image,diagnosis\n1.png,a\n", "no label column.*it has: image, diagnosis"),
        ("image,label\n1.png,a\n,b\n", "line 3: no image"),
        ("image,label\n1.png,a,b\n", "line 2: 3 cells, 2 columns"),
        ("image,label,split\n1.png,a,trian\n", "split 'trian'; did you mean train"),
        ("image,label\n", "no rows"),
        ("", "empty file"),
        ("image,label\n1.png,a\n2.png,a\n", "two classes"),
        ("image,label\n" + "x" * 5000 + ",a\n", "not a usable path"),
    ],
)
def test_bad_tables_are_refused_in_one_line(folder, text, match):
    refused(folder, text, match)


@pytest.mark.parametrize(
    "text, match", [('{"image": "1.png"', "line 1: not valid JSON"), ("[1]", "line 1: not a JSON object")]
)
def test_bad_json_lines(folder, text, match):
    refused(folder, text, match, "a.jsonl")


def test_label_outside_the_list_names_the_nearest(folder):
    text = "image,label\n1.png,normal\n2.png,pneumona\n"
    refused(folder, text, "line 3: label 'pneumona'.*did you mean pneumonia", class_names=["normal", "pneumonia"])


def test_not_utf8_and_missing_files(folder):
    (folder / "a.csv").write_bytes(b"image,label\n1.png,\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_manifest(folder / "a.csv")
    with pytest.raises(DataError, match="No such file"):
        read_manifest(folder / "none.csv")


def test_more_columns_than_any_table_has_are_refused_and_short_lines_cost_nothing(tmp_path):
    header = "path,label," + ",".join(f"c{n}" for n in range(90_000))
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(2000))
    (tmp_path / "labels.csv").write_text(f"{header}\n{rows}", encoding="utf-8")
    started = time.process_time()
    table = read_table(tmp_path / "labels.csv")
    assert time.process_time() - started < 5  # 180 million cells, were they filled up
    assert len(table.columns) == 90_002 and table.rows[0].text("c5") == "" and table.rows[1].text("label") == "b"
    (tmp_path / "labels.csv").write_text(f"{header},{header}\n{rows}", encoding="utf-8")
    with pytest.raises(DataError, match=r"has 180,004 columns, more than 100,000; divide it"):
        read_table(tmp_path / "labels.csv")


def test_the_other_columns_of_the_table_are_read_when_asked_for(folder):
    rows = "image,site,label,note\n1.png, north ,sick,x\n2.png,south,well,\n2.png,east,sick,\n3.png,south,,y\n"
    columns = read(folder, rows).columns()
    assert columns.names == ("image", "site", "label", "note") and columns.taken == {"image", "label"}
    assert columns.cells("site") == {"1.png": "north", "2.png": "south", "2.png#row2": "east"}
    assert columns.cells("note") == {"1.png": "x", "2.png": "", "2.png#row2": ""}


def test_columns_of_classes_hold_labels(folder):
    assert read(folder, "image,sick,tired,age\n1.png,1,0,30\n2.png,0,0,40\n3.png,1,1,50\n").columns().taken == {
        "image",
        "sick",
        "tired",
    }

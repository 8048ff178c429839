"""Tables of pairs: what is written comes back, rows that cannot be used are listed, broken files named by line."""

import csv
import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.record_fields import cleaned
from vladapt.core.errors import ConfigError, DataError, UnknownNameError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip() and "\x1f" not in text
)
ROWS = st.lists(st.tuples(st.sampled_from("abc"), TEXT, st.lists(TEXT, max_size=2)), min_size=1, max_size=6)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for name in ("a.png", "b.png", "c.png", "images/d.png"):
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "empty.png").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    return root


def read(folder, text, name="pairs.csv", **options):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(content)
    return read_pairs(folder / name, split="train", **options)


def captions(pairs):
    return {pair.id: pair.captions for pair in pairs}


def refused(folder, text, match, name="pairs.csv", **options):
    with pytest.raises(DataError, match=match) as caught:
        read(folder, text, name, **options)
    assert name in str(caught.value)


def written(rows, dialect):
    """The rows as a table of two columns, image and caption, and one of lists."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, dialect)
    writer.writerow(["image", "caption", "negatives"])
    writer.writerows([f"{name}.png", text, json.dumps(more)] for name, text, more in rows)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS)
def test_what_is_written_comes_back(folder, kind, rows):
    if kind == "jsonl":
        records = ({"image": f"{n}.png", "caption": text, "negatives": more} for n, text, more in rows)
        content = "".join(json.dumps(record) + "\n" for record in records)
    else:
        content = written(rows, "excel" if kind == "csv" else "excel-tab")
    pairs = read(folder, content, f"pairs.{kind}")
    expected, negatives = {}, {}
    for name, text, more in rows:
        expected.setdefault(f"{name}.png", []).append(cleaned(text))
        negatives.setdefault(f"{name}.png", []).extend(cleaned(other) for other in more)
    assert captions(pairs) == {name: tuple(texts) for name, texts in expected.items()}
    assert [list(pair.texts.get("negative", ())) for pair in pairs] == list(negatives.values())


@pytest.mark.parametrize(
    "image", ["image", "Image_Path", "filepath", "file_name", "filename", "img", "file path", "image_name"]
)
@pytest.mark.parametrize("caption", ["caption", "Captions", "title", "text", "sentence", "report"])
def test_columns_are_found_by_their_usual_names(folder, image, caption):
    assert captions(read(folder, f"{caption},{image}\na dog,a.png\n")) == {"a.png": ("a dog",)}


def test_unusual_columns_are_named(folder):
    text = "photo,caption,words\na.png,no,a dog\n"
    assert captions(read(folder, text, image_column="Photo", caption_column="words")) == {"a.png": ("a dog",)}
    refused(folder, text, r"line 2: no column image .* it has: photo, caption, words; name the right one as image_col")
    refused(folder, text, r"no column 'foto'", image_column="foto")
    refused(folder, "image,b\na.png,x\n", r"no column caption \(caption, captions, title, text, \.\.\.\)")


def test_every_field_of_a_table_is_read(folder):
    header = "image,caption,split,label,negative_caption,synthetic,rewrites,short_caption,negative_image"
    row = "a.png,a dog,VALIDATION,pet,a cat,,\"['one', 'it''s two']\",dog,b.png"
    pairs = read_text(folder, f"{header}\n{row}\nb.png,x,,,,,,,\n")
    assert pairs[0].texts == {"negative": ("a cat",), "short": ("dog",)}
    assert (pairs[0].split, pairs[0].label, pairs.class_names) == ("val", 0, ("pet",))
    assert pairs[0].negative_image == str(folder / "b.png") and pairs[1].negative_image is None
    assert pairs[1].split == "train" and "Rows without a split, taken as train: 1." in pairs.notes


def read_text(folder, text, name="pairs.csv"):
    (folder / name).write_text(text)
    return read_pairs(folder / name)


def test_lists_in_cells_are_several_texts(folder):
    pairs = read(folder, "image\ttitle\tneg_caption\na.png\t['x']\t['A \"b\" c.', \"it's\"]\n")
    assert pairs[0].captions == ("['x']",)  # one caption is a text, whatever it looks like
    assert pairs[0].texts == {"negative": ('A "b" c.', "it's")}
    assert read(folder, 'image,captions\na.png,"[""x"", ""y""]"\n')[0].captions == ("x", "y")
    assert read(folder, 'image,captions\na.png,"[x, y]"\n')[0].captions == ("[x, y]",)


def test_rows_of_json_lines_may_differ(folder):
    lines = [{"image": "a.png", "caption": ["x", "y"]}, {"filename": "b.png", "text": "z", "label": 3, "short": None}]
    pairs = read(folder, "\n\n".join(map(json.dumps, lines)), "pairs.jsonl")
    assert captions(pairs) == {"a.png": ("x", "y"), "b.png": ("z",)} and pairs.class_names == ("3",)


def test_a_json_list_is_a_table(folder):
    text = json.dumps([{"image": "a.png", "caption": "x"}, {"image": "a.png", "caption": "y"}])
    assert captions(read(folder, text, "pairs.json")) == {"a.png": ("x", "y")}


def test_odd_bytes_do_no_harm(folder):
    text = '\ufeffimage,caption\r\na.png,"one\r\ntwo, ""three"""\r\n\r\nb.png,"nul \0 here"\r\nc.png,últim'
    assert captions(read(folder, text)) == {
        "a.png": ('one\r\ntwo, "three"',),
        "b.png": ("nul  here",),
        "c.png": ("últim",),
    }
    half = json.dumps({"image": "a.png", "caption": "half \ud83d"})
    assert read(folder, half, "pairs.jsonl")[0].captions == ("half ?",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_seen(folder, delimiter):
    assert captions(read(folder, f"image{delimiter}caption\na.png{delimiter}x y\n")) == {"a.png": ("x y",)}


def test_rows_that_cannot_be_used_are_listed(folder):
    text = "image,caption\na.png,x\nnone.png,x\nb.png,  \n,x\nempty.png,x\nimages,x\n"
    pairs = read(folder, text)
    assert captions(pairs) == {"a.png": ("x",)} and pairs.total == 6
    assert pairs.skipped == [
        ("pairs.csv line 3", f"none.png: no such file below {folder}"),
        ("pairs.csv line 4", "b.png: empty caption"),
        ("pairs.csv line 5", "names no image"),
        ("pairs.csv line 6", "empty.png: empty file (0 bytes)"),
        ("pairs.csv line 7", f"images: no such file below {folder}"),
    ]


def test_values_that_are_no_text_are_listed(folder):
    lines = [{"image": "a.png", "caption": "x"}, {"image": "b.png", "caption": {"a": 1}}, {"image": "b.png"}]
    lines += [{"image": ["b.png", "c.png"], "caption": "x"}, {"image": "c.png", "caption": 5, "label": [1, 2]}]
    lines += [{"image": "c.png", "caption": float("nan")}, {"image": "c.png", "caption": 5, "label": 2.0}]
    pairs = read(folder, "\n".join(map(json.dumps, lines)), "pairs.jsonl")
    assert captions(pairs) == {"a.png": ("x",), "c.png": ("5",)} and pairs.class_names == ("2",)
    assert [reason for _, reason in pairs.skipped] == [
        'caption is not a text: {"a": 1}',
        "b.png: empty caption",
        "image has 2 values; give one",
        "label has 2 values; give one",
        "c.png: empty caption",
    ]


def test_a_set_without_a_usable_row_is_refused(folder):
    refused(
        folder, "image,caption\nx.png,a\ny.png,b\n", r"none of its 2 rows can be used; the first is pairs.csv line 2"
    )
    refused(folder, "image,caption\n", "holds no image-text pair")


@pytest.mark.parametrize("listed", ["../secret.png", "images/../../secret.png", "link.png", "linked/secret.png"])
def test_a_path_that_leaves_the_folder_is_refused(folder, listed):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "linked").symlink_to(folder.parent)
    refused(folder, f"image,caption\na.png,x\n{listed},x\n", "line 3: .* leaves the folder .* as root")


def test_images_are_found_below_the_root_and_in_images(folder):
    spellings = ["d.png", "images/d.png", "./images//d.png", "images/../images/d.png", str(folder / "images/d.png")]
    text = "image,caption\n" + "".join(f"{name},{place}\n" for place, name in enumerate([*spellings, "images\\d.png"]))
    assert captions(read(folder, text)) == {"images/d.png": ("0", "1", "2", "3", "4", "5")}
    (folder.parent / "list.csv").write_text("image,caption\nd.png,x\n")
    pairs = read_pairs(folder.parent / "list.csv", root=folder, split="train")
    assert pairs[0].source == str(folder / "images/d.png")
    with pytest.raises(DataError, match="no such folder"):
        read_pairs(folder.parent / "list.csv", root=folder / "none")


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / "again.png").symlink_to(folder / "a.png")
    os.symlink("none.png", folder / "broken.png")
    pairs = read(folder, "image,caption\nagain.png,x\nbroken.png,x\n")
    assert captions(pairs) == {"again.png": ("x",)} and len(pairs.skipped) == 1


@pytest.mark.parametrize(
    ("text", "name", "match"),
    [
        (b"image,caption\na.png,x\nb.png,\xff\xfe\n", "pairs.csv", "line 3: is not UTF-8 text; save"),
        (b"\xff\xfei\0m\0", "pairs.csv", "line 1: is not UTF-8"),
        ('image,caption\na.png,x\nb.png,"x\nc.png,y\n', "pairs.csv", "line 3: a quote opens here and never closes"),
        ("image,caption\na.png,x,y\n", "pairs.csv", "line 2: 3 cells, 2 columns; quote cells with ','"),
        ("", "pairs.csv", "empty file; give a header row"),
        (" \n\n", "pairs.tsv", "empty file; give a header row"),
        ('image,caption\n\na.png,"' + "x" * 140_000 + '"\n', "pairs.csv", "line 3: not a row of a table .field larger"),
        ('{"image": "a.png", "caption": "x"}\n{"image"', "pairs.jsonl", "line 2: not valid JSON"),
        ('{"image": "a.png", "caption": "x"}\n[1]', "pairs.jsonl", "line 2: not a JSON object"),
        ("image,caption,split\na.png,x,trian\n", "pairs.csv", "line 2: split 'trian'; did you mean train"),
    ],
)
def test_a_broken_file_is_named_by_line(folder, text, name, match):
    refused(folder, text, match, name)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder; give a table"):
        read_pairs(tmp_path / "none.csv")


def test_rewrites_go_with_the_rows_of_the_table(folder):
    for name, lines in (("one.txt", "r1\nr2\nr3\n\n"), ("two.txt", "\ufeffs1\n\ns3")):
        (folder / name).write_text(lines)
    text = 'image,caption\na.png,"x\ny"\nnone.png,x\nb.png,z\n'
    pairs = read(folder, text, rewrites=[folder / "one.txt", folder / "two.txt"])
    assert [pair.texts["synthetic"] for pair in pairs] == [("r1", "s1"), ("r3", "s3")]
    assert "synthetic" in pairs.fields


@pytest.mark.parametrize(
    ("lines", "match"), [("r1\n", "1 lines, but pairs.csv has more"), ("1\n2\n3\n", "more lines than")]
)
def test_rewrites_of_another_number_are_refused(folder, lines, match):
    (folder / "one.txt").write_text(lines)
    with pytest.raises(DataError, match=f"one.txt: {match}"):
        read(folder, "image,caption\na.png,x\nb.png,y\n", rewrites=[folder / "one.txt"])


def test_rewrites_that_are_no_text_are_named(folder):
    (folder / "one.txt").write_text("fine\n")
    (folder / "two.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"two.txt line 1: is not UTF-8"):
        read(folder, "image,caption\na.png,x\n", rewrites=[folder / "two.txt", folder / "one.txt"])


def test_splits_of_the_file_are_kept_or_one_is_chosen(folder):
    text = "image,caption,split\na.png,x,train\nb.png,y,test\n"
    (folder / "pairs.csv").write_text(text)
    assert read_pairs(folder / "pairs.csv").splits == ("train", "test")
    assert captions(read_pairs(folder / "pairs.csv", split="test")) == {"b.png": ("y",)}
    with pytest.raises(DataError, match="no rows of split 'val'; it has train, test"):
        read_pairs(folder / "pairs.csv", split="val")
    with pytest.raises(ConfigError, match="give one of train, val, test"):
        read_pairs(folder / "pairs.csv", split="dev")


def test_made_splits_follow_the_seed_and_keep_copies_together(folder):
    names = [f"images/{number:02d}.bmp" for number in range(40)]
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (number // 2, 0, 0)).save(folder / name)
    (folder / "pairs.csv").write_text("image,caption\n" + "".join(f"{name},x\n" for name in names))

    def splits(**options):
        return [pair.split for pair in read_pairs(folder / "pairs.csv", **options)]

    assert splits() == splits(seed=0) != splits(seed=1)
    assert splits()[::2] == splits()[1::2]


def test_patients_are_on_one_side(folder):
    for number in range(40):
        Image.new("RGB", (4, 4), (number, 0, 9)).save(folder / f"{number:02d}.bmp")

    def read(column="Subject ID", patient=lambda number: f"S{number // 4}", **options):
        rows = [f"{number:02d}.bmp,a report,{patient(number)}" for number in range(40)]
        (folder / "pairs.csv").write_text(f"image,report,{column}\n" + "\n".join(rows))
        return read_pairs(folder / "pairs.csv", **options)

    def divided(pairs):
        sides = {}
        for pair in pairs:
            sides.setdefault(int(pair.id[:2]) // 4, set()).add(pair.split)
        return sum(len(side) > 1 for side in sides.values())

    pairs = read()
    assert divided(pairs) == 0 and pairs.splits == ("train", "val", "test")
    assert pairs.notes == [
        "Images are grouped by column 'Subject ID': 10 groups.",
        "No splits given: 10% of the groups are val, 10% test.",
    ]
    assert divided(read(group_column="none")) > 0
    assert divided(read("ward")) > 0 and divided(read("ward", group_column="Ward")) == 0
    assert divided(read("pid")) == 0
    for useless in (lambda number: number, lambda number: number % 2, lambda number: "unknown"):
        assert read(patient=useless).notes == ["No splits given: 10% of the images are val, 10% test."]
    with pytest.raises(UnknownNameError, match=r"--group-column mrn.*it has: image, report, Subject ID"):
        read(group_column="mrn")

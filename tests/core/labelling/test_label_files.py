"""Tables of labels as data sets: ids, splits, corrections, and what is wrong with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import load_domain
from vladapt.core.data.label_files import (
    Answer,
    TableSource,
    is_label_file,
    labels_text,
    read_answers,
    read_label_file,
    read_todo,
)
from vladapt.core.data.pools import named_classes, pool_of_classes, read_pool
from vladapt.core.errors import ConfigError, DataError

SOURCE = TableSource("photos", "natural", "classification", ("cat", "dog", "owl"))
ROWS = [Answer(f"{n:02d}.png", ("cat" if n % 2 else "dog",), "", "me", "now", "pcb", 1) for n in range(8)]


@pytest.fixture
def written(pool):
    """written(rows, source) -> a file beside the pool."""

    def write(rows=ROWS, source=SOURCE, name="labels.csv"):
        file = pool.parent / name
        file.write_text(labels_text(rows, source))
        return file

    return write


def read(file, **reading):
    return read_label_file(file, load_domain("natural"), "classification", reading)


def test_labels_are_a_set_whose_random_images_are_its_test_split(written):
    rows = [replace(row, drawn="random") if n in (2, 3) else row for n, row in enumerate(ROWS)]
    data = read(written(rows))
    assert data.class_names == ("cat", "dog") and [item.id for item in data.split("test")] == ["02.png", "03.png"]
    assert len(data.split("train")) == 6 and data.items[1].class_label() == 0
    assert any("owl" in note for note in data.notes)
    assert {item.split for item in read(written()).items} == {""}


def test_what_nobody_was_sure_of_is_left_out_and_told(written):
    data = read(written([*ROWS, Answer("08.png", (), "not sure"), Answer("09.png", (), "none of these")]))
    assert len(data.items) == 8
    assert [note for note in data.notes if "left out: 1" in note] != []


def test_several_labels_make_a_set_of_several_labels(written):
    rows = [*ROWS, Answer("08.png", ("cat", "owl")), Answer("09.png", (), "none of these")]
    data = read(written(rows))
    assert data.kind == "multilabel" and data.class_names == ("cat", "dog", "owl")
    assert data.items[8].class_label() == (1, 0, 1) and data.items[9].class_label() == (0, 0, 0)


def test_images_that_are_gone_are_listed(written):
    data = read(written([*ROWS, Answer("gone.png", ("cat",))]))
    assert ("gone.png", "no longer among the data") in data.skipped


def test_images_in_folders_of_classes_are_labelled_too(pool, written):
    (pool / "Owl").mkdir()
    for name in ("20.png", "21.png"):
        (pool / name).rename(pool / "Owl" / name)
    data = read(written([*ROWS, Answer("Owl/21.png", ("cat",), drawn="random")]))
    labels = {item.id: data.class_names[item.class_label()] for item in data.items}
    assert len(labels) == 10 and (labels["Owl/20.png"], labels["Owl/21.png"]) == ("owl", "cat")
    assert {item.split for item in data.items if item.id == "Owl/20.png"} == {"train"}


def test_corrections_give_the_whole_set(tmp_path, class_folders_of):
    class_folders_of(tmp_path / "set", cat=4, dog=4)
    rows = [Answer("cat/0.png", ("dog",), drawn="suspect"), Answer("dog/1.png", (), "not sure", drawn="suspect")]
    source = TableSource("set", "natural", "classification", ("cat", "dog"), labelled=True)
    file = tmp_path / "corrections.csv"
    file.write_text(labels_text(rows, source))
    labels = {item.id: item.class_label() for item in read(file).items}
    assert len(labels) == 7 and labels["cat/0.png"] == 1 and labels["cat/1.png"] == 0 and "dog/1.png" not in labels
    file.write_text(labels_text(rows, replace(source, classes=("cat", "dog", "owl"))))
    with pytest.raises(DataError, match="names other classes"):
        read(file)


@pytest.fixture
def class_folders_of(pool):
    from PIL import Image

    def make(folder, **counts):
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for number in range(count):
                Image.open(pool / f"{number:02d}.png").save(folder / name / f"{number}.png")
        return folder

    return make


@settings(max_examples=20)
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=6), min_size=2, unique=True
    ),
    data=st.data(),
)
def test_whatever_names_classes_have_they_are_read_as_written(names, data, tmp_path_factory):
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    rows = [Answer("a/b.png", tuple(chosen), "", "é,\"'", "now", "pcb", 3), Answer("c#2", (), "none of these")]
    file = tmp_path_factory.getbasetemp() / "labels.csv"
    file.write_text(
        labels_text(rows, replace(SOURCE, classes=tuple(names), reading={"window": "lung"})), encoding="utf-8"
    )
    assert is_label_file(file)
    assert read_answers(file) == (rows, replace(SOURCE, classes=tuple(names), reading={"window": "lung"}))


@pytest.mark.parametrize(
    ("found", "put", "words"),
    [
        (",cat,", ",cta,", "label 'cta' is not one of its classes; did you mean cat"),
        ("03.png", "02.png", "'02.png' is in two rows"),
        ("now,pcb,1", "now,pcb,x", "round 'x'"),
        (",dog,,", ",,,", "neither a label nor an answer"),
        (",dog,,", ",dog,maybe,", "answer 'maybe'"),
        ('""cat""', "7", "not a list of names"),
        ("photos", "..", "its images lie outside its folder; give --root"),
        ("natural", "medical", "give --domain medical"),
        ("01.png", "", "no id"),
        (",round,", ",turn,", "has no column 'round'"),
    ],
)
def test_a_wrong_cell_is_one_line_with_its_place(written, found, put, words):
    file = written()
    text = file.read_text()
    assert found in text
    file.write_text(text.replace(found, put, 1))
    with pytest.raises(DataError, match=words) as error:
        read(file)
    assert file.name in str(error.value)


def test_images_elsewhere_are_read_where_the_user_says(written, pool):
    (pool.parent / "lists").mkdir()
    file = written(source=replace(SOURCE, data="../photos"), name="lists/labels.csv")
    with pytest.raises(DataError, match="--root"):
        read(file)
    assert len(read(file, root=str(pool)).items) == 8


def test_a_table_names_images_of_one_reading(written):
    file = written(source=replace(SOURCE, reading={"max_pixels": 5000}))
    assert len(read(file, max_pixels="5000").items) == 8
    with pytest.raises(ConfigError, match="read with another value;"):
        read(file, max_pixels=6000)


def test_a_list_to_label_says_where_its_images_are(todo):
    rows, source = read_todo(todo(7))
    assert [row.drawn for row in rows].count("random") == 1 and rows[3].guess == "cat" and rows[3].confidence == 0.5
    assert source.data == "photos" and not source.labelled
    file = todo(7)
    file.write_text(file.read_text().replace("0.5000", "2"))
    with pytest.raises(DataError, match="confidence '2'"):
        read_todo(file)


def test_folders_that_are_no_classes_say_nothing(tmp_path, class_folders_of):
    folder = class_folders_of(tmp_path / "set", Great_Dane=2, unsorted=3)
    (folder / "unsorted" / "great-dane").mkdir()
    (folder / "unsorted" / "0.png").rename(folder / "unsorted" / "great-dane" / "9.png")
    data = pool_of_classes(read_pool(load_domain("natural"), "classification", str(folder), {}), ("great dane", "pug"))
    labelled = sorted(item.id for item in data.items if item.class_label() == 0)
    assert labelled == ["Great_Dane/0.png", "Great_Dane/1.png", "unsorted/great-dane/9.png"]
    assert len(data.items) == 5 and data.class_names == ("great dane", "pug")


def test_a_table_beside_the_images_says_what_belongs_together(pool):
    rows = [f"{number:02d}.png,patient {number // 3}" for number in range(30)]
    (pool / "patients.csv").write_text("\n".join(["image,patient_id", *rows]))
    items = read_pool(load_domain("natural"), "classification", str(pool), {}).items
    assert len({item.group for item in items}) == 10 and items[0].group == items[2].group
    ungrouped = read_pool(load_domain("natural"), "classification", str(pool), {"group_column": "none"})
    assert {item.group for item in ungrouped.items} == {None}


def test_classes_are_two_at_least(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    assert named_classes(str(tmp_path / "names.txt")) == named_classes(" cat, dog ") == ("cat", "dog")
    for text, words in [
        (None, "name the classes"),
        ("cat", "1 class; give at least two"),
        ("a,b,a", "'a' is given twice"),
    ]:
        with pytest.raises(ConfigError, match=words):
            named_classes(text)

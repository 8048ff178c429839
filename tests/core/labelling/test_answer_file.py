"""The file of labels: whole after every answer, by one writer, and nothing is lost."""

from __future__ import annotations

import pytest

from vladapt.core.data.label_files import read_answers, read_todo
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.labelling.agreement import compare_labels
from vladapt.core.labelling.answer_file import AnswerFile
from vladapt.core.runtime.process import stops_like_ctrl_c


@pytest.fixture
def opened(todo):
    """opened(list, name, ...) -> the file of answers; all are closed in the end."""
    files = []

    def open_(table=None, name="labels.csv", labeller="me", several=False) -> AnswerFile:
        table = table or todo()
        rows, source = read_todo(table)
        files.append(AnswerFile(table.parent / name, rows, source, table, labeller, several))
        return files[-1]

    yield open_
    for file in files:
        file.close()


def test_each_answer_is_written_with_who_and_when(opened):
    file = opened()
    file.answer(2, ["dog"])
    file.answer(4, [], "not sure")
    rows, source = read_answers(file.path)
    assert [(row.id, row.labels, row.answer, row.drawn) for row in rows] == [
        ("02.png", ("dog",), "", "pcb"),
        ("04.png", (), "not sure", "random"),
    ]
    assert rows[0].labeller == "me" and rows[0].time.endswith("Z") and source.classes == ("cat", "dog", "owl")
    assert not list(file.path.parent.glob(".partial-*"))


def test_another_answer_takes_the_place_and_undo_takes_back_the_latest(opened):
    file = opened()
    for image, label in [(0, "cat"), (1, "dog"), (0, "owl")]:
        file.answer(image, [label])
    assert [row and row.labels for row in file.answers()[:2]] == [("owl",), ("dog",)]
    assert [file.undo(), file.undo(), file.undo()] == [0, 1, None]
    assert not file.path.exists()


def test_a_stop_says_that_labels_of_before_are_kept(opened):
    with stops_like_ctrl_c() as stops:
        first = opened()
        assert stops.kept == {}
        first.answer(1, ["owl"])
        first.close()
        again = opened()
    assert stops.kept == {"labels": str(again.path)}


def test_a_file_is_gone_on_with_and_earlier_rounds_stay(opened, todo):
    first = opened(todo(3))
    first.answer(1, ["owl"])
    first.close()
    again = opened(todo(30, "second.csv"))
    again.answer(20, ["cat"])
    assert [row.id for row in read_answers(again.path)[0]] == ["01.png", "20.png"]
    assert again.undo() == 20 and again.undo() == 1


def test_undo_leaves_what_is_not_in_the_list(opened, todo):
    first = opened(todo(30))
    first.answer(29, ["owl"])
    first.close()
    again = opened(todo(3, "second.csv"))
    assert again.undo() is None and read_answers(again.path)[0][0].id == "29.png"


def test_several_labels_are_kept_in_the_order_of_the_classes(opened):
    file = opened(several=True)
    file.answer(0, ["owl", "cat"])
    assert read_answers(file.path)[0][0].labels == ("cat", "owl")


@pytest.mark.parametrize(
    ("image", "labels", "answer"),
    [(99, ["cat"], ""), (0, ["cow"], ""), (0, ["cat", "dog"], ""), (0, [], ""), (0, ["cat"], "not sure"), (0, [], "?")],
)
def test_what_is_no_answer_is_refused_and_changes_nothing(opened, image, labels, answer):
    file = opened()
    file.answer(0, ["dog"])
    before = file.path.read_bytes()
    with pytest.raises(ConfigError):
        file.answer(image, labels, answer)
    assert file.path.read_bytes() == before


def test_a_second_writer_is_refused_until_the_first_is_closed(opened):
    first = opened()
    with pytest.raises(ConfigError, match="another page is writing to it"):
        opened()
    first.close()
    opened()


def test_other_files_are_refused_and_kept(opened, todo, pool):
    for name, text, words in [
        ("notes.csv", "image,label\na.png,cat\n", "has no column 'id'"),
        ("empty.csv", "", "empty file"),
    ]:
        (pool.parent / name).write_text(text)
        with pytest.raises(DataError, match=words):
            opened(name=name)
        assert (pool.parent / name).read_text() == text
    with pytest.raises(ConfigError, match=r"written as \.csv"):
        opened(name="labels.txt")
    with pytest.raises(ConfigError, match="is the list of images;"):
        opened(todo(), name="todo.csv")


def test_labels_of_other_images_or_classes_are_refused(opened, todo):
    first = opened()
    first.answer(0, ["owl"])
    first.close()
    with pytest.raises(DataError, match="labels of other images"):
        opened(todo(data="elsewhere"))
    with pytest.raises(DataError, match="label 'owl' is not a class of the list"):
        opened(todo(classes=("cat", "dog")))


def test_two_files_are_compared(opened, todo):
    """Kappa by hand: 3 of 4 agree; chance agreement is (2/4)(1/4) + (1/4)(2/4) + (1/4)(1/4)."""
    table = todo()
    for name, labels in [("a.csv", "cat cat dog owl"), ("b.csv", "cat dog dog owl")]:
        file = opened(table, name)
        for image, label in enumerate(labels.split()):
            file.answer(image, [label])
        file.close()
    found = compare_labels(table.parent / "a.csv", table.parent / "b.csv")
    assert (found.both, found.agreed, found.disagreements) == (4, 3, [("01.png", "cat", "dog")])
    chance = 2 / 4 * 1 / 4 + 1 / 4 * 2 / 4 + 1 / 4 * 1 / 4
    assert found.kappa == pytest.approx((3 / 4 - chance) / (1 - chance))
    other = opened(todo(name="other.csv"), "c.csv")
    other.answer(9, ["cat"])
    with pytest.raises(DataError, match="no image in common"):
        compare_labels(table.parent / "a.csv", other.path)

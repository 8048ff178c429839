"""`vladapt select` and `vladapt label` at the command line: rounds, the curve, corrections, mistakes in one line."""

from __future__ import annotations

import csv
import json

import pytest

from vladapt.core.data.label_files import Answer, labels_text, read_answers, read_todo

CLASSES = "red,green,blue"


@pytest.fixture
def select(vladapt, small_clip_spec):
    """select("--budget", 10, ...) -> Outcome."""

    def call(*arguments):
        return vladapt("select", "--backbone", small_clip_spec, "--adapter", "nearest-mean", *arguments)

    return call


@pytest.fixture
def photos(colours):
    """Images in folders that say nothing: 00 to 11 are red, 12 to 23 green, 24 to 35 blue."""
    mixed = colours.parent / "photos"
    mixed.mkdir()
    for number, file in enumerate(sorted(colours.rglob("*.png"), key=lambda f: (f.parent.name, f.name))):
        file.rename(mixed / f"{number:02d}-{file.parent.name[0]}.png")
    return mixed


def answered(todo, file, wrong=()):
    """What a person who sees the colours says of a list, added to a file of labels."""
    rows, source = read_todo(todo)
    names = {name[0]: name for name in source.classes}
    before = read_answers(file)[0] if file.exists() else []
    said = [Answer(r.id, (names[r.id[-5]],), "", "me", "now", r.drawn, r.round) for r in rows]
    file.write_text(labels_text([*before, *said], source))


def test_two_rounds_tell_accuracy_and_are_fitted(select, vladapt, photos, tmp_path, small_clip_spec):
    labels, asked = tmp_path / "labels.csv", []
    given = ("--data", photos, "--classes", CLASSES, "--budget", 10, "--out", "todo.csv", "--json")
    first = select(*given)
    assert first.code == 0, first.err
    told = first.json
    assert (told["images"], told["random"], told["round"], told["labelled"], told["curve"]) == (10, 2, 1, 0, [])
    answered(tmp_path / "todo.csv", labels)
    asked += [row.id for row in read_todo("todo.csv")[0]]
    told = select(*given, "--labelled", labels).json
    assert (told["round"], told["labelled"], told["method"]) == (2, 10, "pcb")
    assert [point["labels"] for point in told["curve"]] == [0, 8] and told["payoff"] is None
    answered(tmp_path / "todo.csv", labels)
    asked += [row.id for row in read_todo("todo.csv")[0]]
    assert len(set(asked)) == 20
    shown = select(*given[:-1], "--labelled", labels, "--budget", 5)
    assert "Accuracy on the 4 images drawn at random so far:" in shown.out and "16 labels: " in shown.out
    assert "labels accuracy changed by" in shown.out and "vladapt label todo.csv --out labels.csv" in shown.out
    fitted = vladapt(
        "fit", "--data", labels, "--backbone", small_clip_spec, "--adapter", "nearest-mean", "--shots", "all", "--json"
    )
    assert fitted.code == 0, fitted.err
    data = json.loads((tmp_path / fitted.json["run"] / "run.json").read_text())
    print(data.keys())


def test_what_lies_in_a_folder_of_a_class_is_labelled(select, colours):
    told = select("--data", colours, "--classes", "red,green,yellow", "--budget", 5, "--out", "todo.csv", "--json").json
    assert (told["pool"], told["labelled"]) == (36, 24)
    assert all(row.id.startswith("blue/") for row in read_todo("todo.csv")[0])


def test_options_change_what_is_listed(select, photos):
    def listed(*arguments):
        made = select("--data", photos, "--classes", CLASSES, "--budget", 10, "--out", "todo.csv", "--json", *arguments)
        assert made.code == 0, made.err
        return [row.id for row in read_todo("todo.csv")[0]]

    usual = listed()
    assert listed() == usual
    changes = [("--seed", 2), ("--method", "coreset"), ("--set", "method.base=entropy"), ("--set", "split_seed=5")]
    assert all(listed(*change) != usual for change in changes)


def test_the_table_has_both_kinds_of_images_and_the_guess(select, photos):
    select("--data", photos, "--classes", CLASSES, "--budget", 10, "--out", "todo.csv")
    with open("todo.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["drawn"] for row in rows] == [*["pcb"] * 4, "random"] * 2
    assert {row["guess"] for row in rows} <= {"red", "green", "blue"} and rows[0]["data"] == "photos"


def test_wrong_labels_are_listed_and_corrected(select, vladapt, colours, tmp_path, small_clip_spec):
    pytest.importorskip("cleanlab", reason="extra labels is not installed")
    (colours / "red" / "03.png").rename(colours / "green" / "wrong.png")
    given = ("--data", colours, "--wrong-labels", "--out", "suspects.csv")
    made = select(*given, "--adapter", "linear-probe", "--json")
    assert made.code == 0, made.err
    rows, source = read_todo("suspects.csv")
    assert rows[0].id == "green/wrong.png" and (rows[0].given, rows[0].guess) == ("green", "red") and source.labelled
    limited = select(*given, "--adapter", "linear-probe", "--budget", 1)
    assert "1 of 36 labels look wrong to linear-probe: suspects.csv" in limited.out
    said = [Answer("green/wrong.png", ("red",), "", "me", "now", "suspect", 1)]
    (tmp_path / "corrections.csv").write_text(labels_text(said, source))
    fit = ("fit", "--backbone", small_clip_spec, "--adapter", "zero-shot", "--shots", 1, "--json")
    made = vladapt(*fit, "--data", "corrections.csv")
    assert made.code == 0, made.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--classes", CLASSES, "--budget", 99], 2, "--budget 99: 36 images are left to label"),
        (["--classes", CLASSES, "--budget", 0], 2, "--budget 0: give 1 or more"),
        ([], 2, "--classes: name the classes,"),
        (["--classes", "red"], 2, "--classes: 1 class; give at least two"),
        (["--classes", CLASSES, "--method", "bagde"], 2, "did you mean badge"),
        (["--classes", CLASSES, "--set", "method.bse=random"], 2, "no option 'bse'; did you mean base"),
        (["--classes", CLASSES, "--adapter", "transclip"], 2, "--adapter transclip: needs"),
        (["--classes", CLASSES, "--labelled", "none.csv"], 1, "none.csv: no such file"),
        (["--classes", CLASSES, "--set", "shots=3"], 2, "select does not use it"),
        (["--wrong-labels", "--method", "pcb"], 2, "--method: not for --wrong-labels"),
    ],
)
def test_what_is_wrong_is_one_line(select, photos, arguments, code, words):
    made = select("--data", photos, "--out", "todo.csv", *arguments)
    assert made.code == code and words in made.error


def test_labels_are_never_written_over_and_unknown_ones_are_told(select, photos, tmp_path):
    given = ("--data", photos, "--classes", CLASSES, "--budget", 5)
    select(*given, "--out", "todo.csv")
    answered(tmp_path / "todo.csv", tmp_path / "labels.csv")
    kept = (tmp_path / "labels.csv").read_bytes()
    assert "holds labels, which would be lost" in select(*given, "--out", "labels.csv").error
    assert (tmp_path / "labels.csv").read_bytes() == kept
    assert "there is no folder none" in select(*given, "--out", "none/todo.csv").error
    other = ("--data", photos, "--classes", "rot,gruen", "--out", "todo.csv", "--labelled", "labels.csv")
    assert "is not among --classes" in select(*other).error
    assert "give a file that `vladapt label` wrote" in select(*given, "--out", "t.csv", "--labelled", "todo.csv").error


def test_two_files_of_labels_are_compared(vladapt, select, photos, tmp_path):
    select("--data", photos, "--classes", CLASSES, "--budget", 5, "--out", "todo.csv")
    answered(tmp_path / "todo.csv", tmp_path / "a.csv")
    text = (tmp_path / "a.csv").read_text().splitlines(keepends=True)
    changed = text[2].replace(text[2].split(",")[1], "", 1).replace(",,", ",,not sure", 1)
    (tmp_path / "b.csv").write_text("".join([*text[:2], changed, *text[3:]]))
    told = vladapt("label", "--merge", "a.csv", "b.csv", "--json").json
    assert (told["both"], told["agreed"], len(told["disagreements"])) == (5, 4, 1)
    assert told["disagreements"][0]["second"] == "not sure"
    assert "5 images in both files, 4 labelled alike" in vladapt("label", "--merge", "a.csv", "b.csv").out
    assert "--merge: compares two files" in vladapt("label", "todo.csv", "--merge", "a.csv", "b.csv").error
    assert "give the table of images and --out" in vladapt("label", "todo.csv").error


def test_ctrl_c_ends_the_page_and_says_how_many_images_are_labelled(select, vladapt, photos, tmp_path, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn", reason="extra labels is not installed")
    select("--data", photos, "--classes", CLASSES, "--budget", 5, "--method", "random", "--out", "todo.csv")
    answered(tmp_path / "todo.csv", tmp_path / "labels.csv")

    def stopped(server, sockets):
        raise KeyboardInterrupt  # as uvicorn does when it has ended

    monkeypatch.setattr(uvicorn.Server, "run", stopped)
    ended = vladapt("label", "todo.csv", "--out", "none.csv")
    assert ended.code == 0 and ended.out.strip().endswith("0 of 5 images labelled: none.csv"), ended.err
    again = vladapt("label", "todo.csv", "--out", "labels.csv").out
    assert again.strip().endswith("5 of 5 images labelled: labels.csv. Fit: vladapt fit --data labels.csv")

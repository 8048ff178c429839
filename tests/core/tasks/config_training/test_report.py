"""The report of a task that its domain scores: every kind of section, names as they are, numbers as they are meant."""

from __future__ import annotations

import re

import numpy as np

from vladapt.core.contracts.run_info import BeforeAfter, RunInfo
from vladapt.core.runs.run_sections import render_report
from vladapt.core.runs.sections import CurveSection, PictureSection, TableSection
from vladapt.core.tasks.config_training.report import config_training_report

EVIL = "<script>alert('x')</script>"
INFO = {
    "created": "2026-01-01",
    "domain": "toy",
    "task": "detection",
    "adapter": "own",
    "backbone": {"spec": f"spec {EVIL}", "fingerprint": "abc", "licence": "MIT"},
    "data": {"name": f"data {EVIL}", "path": "p", "kind": "boxes", "licence": "CC0-1.0", "counts": {}},
    "class_names": ["a", f"b {EVIL}"],
    "plan": {"model": {"type": f"Model {EVIL}"}},
    "shots": None,
    "seed": 1,
    "splits": {"train": ["1"], "val": [], "test": ["2"]},
    "skipped": [],
    "notes": [f"note {EVIL}"],
    "seconds": 1.0,
    "versions": {f"torch {EVIL}": "2"},
    "recipe": {},
}


def metrics(**adapted):
    return {"zero_shot": None, "adapted": adapted or {"AP50": 0.5}, "test_images": 3}


def page(sections=(), history=(), info=INFO, **adapted):
    return render_report(
        config_training_report(
            "runs/x", RunInfo.from_json(info), BeforeAfter.from_json(metrics(**adapted)), sections, history
        )
    )


def rows_of(text, title):
    """Cells of the table under a heading."""
    table = text.partition(title)[2].partition("</table>")[0]
    return [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    ]


def test_all_kinds_of_sections_are_on_the_page():
    picture = np.zeros((20, 30, 3), np.uint8)
    text = page(
        [
            TableSection("Class by class", ("Class", "AP"), [("cat", 0.25), ("dog", None)], "A table."),
            PictureSection("What it finds", [(picture, "one.png"), (picture, "two.png")], "Pictures."),
            CurveSection("Precision", {"cat": ([0, 1], [1, 0.5])}, "recall", "precision", "A curve."),
        ]
    )
    assert rows_of(text, "Class by class") == [["Class", "AP"], ["cat", "25.0%"], ["dog", "–"]]
    assert text.count('src="data:image/') == 3
    assert all(said in text for said in ("A table.", "Pictures.", "A curve.", "one.png", "two.png"))
    assert 'alt="precision over recall. cat: 1 to 0.5, lowest 0.5 at recall 1, highest 1 at recall 0."' in text


def test_every_name_is_escaped_and_nothing_is_loaded():
    picture = np.zeros((4, 4, 3), np.uint8)
    text = page(
        [
            TableSection(EVIL, ("Class", EVIL), [(EVIL, EVIL)], EVIL),
            PictureSection(EVIL, [(picture, f'" onerror="x {EVIL}')], EVIL),
            CurveSection(EVIL, {EVIL: ([0, 1], [1, 0])}, EVIL, EVIL, EVIL),
        ],
        info={**INFO, "skipped": [(EVIL, EVIL)]},
        **{f"AP {EVIL}": 0.5},
    )
    assert "<script" not in text and 'onerror="' not in text
    assert text.count("&lt;script&gt;") > 15
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_numbers_are_shown_as_they_are_meant():
    text = page(AP50=0.4567, mean_error=1.23456, mIoU=float("nan"), AR100=43.2, boxes=12)
    assert rows_of(text, "All scores")[1:] == [
        ["AP50 ↑", "45.7%"],
        ["mean error", "1.235"],
        ["mIoU ↑", "–"],
        ["AR100 ↑", "43.2"],
        ["boxes", "12"],
    ]


def test_numbers_of_a_table_are_shares_only_where_it_says_so():
    rows = [("cat", 0.5, 1234, np.float32(0.25), "text")]
    header = ("Class", "AP", "Pixels", "IoU", "Word")
    assert rows_of(page([TableSection("T1", header, rows)]), "T1")[1] == ["cat", "50.0%", "1,234", "25.0%", "text"]
    bare = rows_of(page([TableSection("T2", header, rows, shares=False)]), "T2")[1]
    assert bare == ["cat", "0.5", "1,234", "0.25", "text"]


def test_a_training_is_shown_by_its_loss():
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert 'alt="loss over step. loss: 2 to 1, lowest 1 at step 2, highest 2 at step 1."' in page(history=history)
    assert "How the training went" not in page(history=history[:1])


def test_many_curves_and_empty_ones_are_drawn():
    many = {f"class {i}": ([0, 1], [1, 0]) for i in range(30)}
    assert page([CurveSection("Many", {**many, "none": ([], [])}, "x", "y")]).count('src="data:image/') == 1


def test_what_was_left_out_is_counted_and_listed():
    info = {**INFO, "skipped": [(f"{i}.png", "damaged") for i in range(250)]}
    text = page(info=info)
    assert "250 samples could not be used; the first 200 are listed" in text
    assert text.count("damaged") == 200


def test_it_says_what_was_trained_on_what_and_how_to_use_it():
    given = {
        **INFO,
        "class_names": ["cat", "dog"],
        "shots": 10,
        "plan": {"model": {"type": "RetinaNet"}},
        "seconds": 75,
    }
    text = re.sub("<[^>]+>", " ", page(info=given))
    for words in (
        "1 train, 1 test",
        "up to 10 examples per class",
        "RetinaNet",
        "cat, dog",
        "toy · detection",
        "1 min 15 s",
    ):
        assert words in text
    for command in ("predict runs/x new_images/ --out found/", "--classes &#34;a, b, c&#34;", "vladapt eval runs/x"):
        assert command in text
    assert "On 3 test images that took no part in the training." in text and "CC0-1.0" in text

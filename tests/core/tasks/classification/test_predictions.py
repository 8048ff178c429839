"""Rows of what a run says, where images have several labels."""

from __future__ import annotations

import csv
import io
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vladapt.core.confidence import Calibration
from vladapt.core.contracts.judgement import Scores
from vladapt.core.contracts.run_info import FittedRun, RunInfo
from vladapt.core.contracts.task import Use
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.judgements.calibration import trust_section
from vladapt.core.registry import build_judgement
from vladapt.core.tasks.classification.answers import predictions_table
from vladapt.core.tasks.classification.predictions import Predictions, check_wishes, predictions_of

RUN = FittedRun(Path("run"))


@pytest.fixture
def several() -> Predictions:
    return Predictions(
        ("effusion", "mass", "id"),
        ["a.png", "b.png"],
        torch.tensor([[0.9, 0.3, 0.1], [0.2, 0.1, 0.05]], dtype=torch.float64),
        answers=torch.tensor([[True, True, False], [False, False, False]]),
    )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("values", [(float("nan"), 1.0), (float("inf"), float("inf"))])
def test_an_image_without_an_answer_is_named_and_gets_none(values, several):
    logits = torch.tensor([[0.5, 1.0], values, [0.0, 0.0], values])
    use, ids, features = Use(RUN), ["a.png", "b.png", "c.png", "d.png"], torch.zeros(4, 2)
    finite = several and values[0] > 0  # a label that is certain is one
    with nullcontext() if finite else pytest.raises(DataError, match=r"b\.png: .* NaN .* 1 other image; copy the run"):
        predictions_of(use, [], None, ("x", "y"), ids, logits, features, several, [])


def test_a_class_that_is_out_of_the_question_is_no_fault():
    logits = torch.tensor([[-float("inf"), 1.0]])
    (row,) = predictions_of(Use(RUN), [], None, ("x", "y"), ["a.png"], logits, torch.zeros(1, 2), False, []).rows()
    assert (row["label"], row["confidence"]) == ("y", 1.0)


def test_every_label_that_is_named_has_its_confidence(several):
    rows = several.rows()
    assert (rows[0]["labels"], rows[0]["confidences"]) == (["effusion", "mass"], [0.9, 0.3])
    assert (rows[1]["labels"], rows[1]["confidences"]) == ([], [])


def test_what_judgements_say_stands_between_the_answer_and_the_runners_up(several):
    several.columns = {"open": [["mass"], ["effusion"]], "unlike": [True, False]}
    rows = several.rows()
    assert list(rows[0]) == ["id", "labels", "confidences", "open", "unlike", "top"]
    assert [row["open"] for row in rows] == [["mass"], ["effusion"]] and rows[0]["unlike"] is True
    headings = [column.header for column in predictions_table(rows, {"unlike": "strange", "set": "set"}).columns]
    assert headings == ["image", "prediction", "confidence", "next", "strange"]


def test_the_csv_has_a_column_per_label_even_if_one_is_called_id(several):
    table = list(csv.reader(io.StringIO(several._csv())))
    assert table[0] == ["id", "labels", "confidences", "effusion", "mass", "id (probability)"]
    assert table[1] == ["a.png", "effusion;mass", "0.900000;0.300000", "0.900000", "0.300000", "0.100000"]


def test_the_terminal_names_labels_with_their_confidence(several):
    columns = [list(column.cells) for column in predictions_table(several.rows(), {}).columns]
    assert columns[1] == ["effusion 90.0%, mass 30.0%", "none"]


def test_names_are_escaped_in_the_page():
    made = Predictions(("<b>", "c"), ["<script>x</script>"], torch.tensor([[0.7, 0.3]]))
    page = made._html()
    assert "<script>x" not in page and "&lt;b&gt;" in page


def test_the_number_of_classes_shown_is_as_asked(several):
    assert [len(row["top"]) for row in several.rows(top=2)] == [2, 2]
    several.top = 1
    assert len(several.rows()[0]["top"]) == 1


@pytest.mark.parametrize("several", [False, True])
def test_the_report_tells_what_sets_and_open_answers_come_to(several):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    logits = 4 * torch.nn.functional.one_hot(labels, 2) + torch.randn(120, 2, generator=generator)
    labels = torch.nn.functional.one_hot(labels, 2).float() if several else labels
    calibration = Calibration.of_rows(logits, labels, ("a", "b"), "60 rows")
    section = trust_section(calibration, Scores(labels, None, logits, {}))
    asked = [row[0] for row in section.rows]
    assert any("90% of cases" in words for words in asked) is not several
    assert any("at most 5% are wrong" in words for words in asked)
    assert any("90% of the true labels" in words for words in asked) is several
    assert "--coverage" in section.note
    assert all("% to " in row[1].small for row in section.rows[:3])
    assert trust_section(None, Scores(labels, None, logits, {})) is None


def run_of(names, **points):
    """A run with an operating point for each of some names."""
    metrics = {"operating_point": {"points": {name: {"threshold": at} for name, at in points.items()}}}
    metrics |= {"findings": {"finding": "sick", "reason": "named", "scores": {}}} if "sick" in names else {}
    return FittedRun(
        Path("run"), RunInfo(class_names=names), metrics if points else {**metrics, "operating_point": None}
    )


def answers(run, names, probs, several=False, judgements=(), **wishes):
    probs = torch.tensor(probs, dtype=torch.float64)
    logits, ids = probs.logit() if several else probs.log(), [f"{n}.png" for n in range(len(probs))]
    use = Use(run, **wishes)
    return predictions_of(use, list(judgements), None, names, ids, logits, torch.zeros(len(ids), 2), several, [])


def test_the_finding_is_named_from_the_operating_point_of_the_run_on():
    names, probs = ("well", "sick"), [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]
    made = answers(run_of(names, sick=0.2), names, probs)
    rows = made.rows()
    assert [row["label"] for row in rows] == ["well", "sick", "sick", "sick"]
    assert [row["confidence"] for row in rows] == pytest.approx([0.9, 0.2, 0.4, 0.7])
    assert (
        all(row["threshold"] == 0.2 for row in rows) and "“sick” is answered from a probability of 0.2" in made.notes[0]
    )
    assert list(csv.reader(io.StringIO(made._csv())))[2] == [
        "1.png",
        "sick",
        "0.200000",
        "0.200000",
        "0.800000",
        "0.200000",
    ]
    other = answers(run_of(names, sick=0.2), names, probs, threshold=0.5)
    assert [row["label"] for row in other.rows()] == [
        "well",
        "well",
        "well",
        "sick",
    ] and "(--threshold)" in other.notes[0]
    shown = [list(column.cells) for column in predictions_table(rows, {}).columns]
    assert (shown[1][2], shown[3][2]) == ("sick", "well 60.0%")


def test_without_an_operating_point_the_likelier_class_is_named_and_no_threshold_told():
    names = ("well", "sick")
    made = answers(run_of(names), names, [[0.6, 0.4], [0.3, 0.7]])
    assert [list(row) for row in made.rows()] == [["id", "label", "confidence", "top"]] * 2 and made.notes == []
    assert [row["label"] for row in made.rows()] == ["well", "sick"]


def test_labels_have_the_thresholds_of_their_operating_points():
    names = ("effusion", "mass")
    made = answers(run_of(names, mass=0.1), names, [[0.45, 0.2], [0.9, 0.05]], several=True)
    assert [row["labels"] for row in made.rows()] == [["mass"], ["effusion"]]
    assert [row["thresholds"] for row in made.rows()] == [[0.5, 0.1]] * 2
    other = answers(run_of(names, mass=0.1), names, [[0.45, 0.2], [0.9, 0.05]], several=True, threshold=0.3)
    assert [row["labels"] for row in other.rows()] == [["effusion"], ["effusion"]]


def test_a_set_holds_the_answer_of_an_operating_point():
    labels = torch.arange(200) % 2
    rows = Calibration.of_rows(6 * torch.nn.functional.one_hot(labels, 2).float() - 3, labels, ("well", "sick"), "rows")
    use, logits = Use(run_of(("well", "sick"), sick=0.001)), torch.tensor([[2.0, -2.0]])
    of = (rows, ("well", "sick"), ["a.png"], logits, torch.zeros(1, 2), False, [])
    (row,) = predictions_of(use, [build_judgement("coverage", coverage=0.8)], *of).rows()
    assert row["label"] == "sick" and "sick" in row["set"]


def test_errors_of_the_likelier_class_are_not_promised_of_other_answers():
    adapter = SimpleNamespace(multilabel_=False, class_names_=("well", "sick"))
    run, task = run_of(("well", "sick"), sick=0.2), SimpleNamespace(judgements=(), judges=())
    with pytest.raises(ConfigError, match="answers follow the operating point of the run; omit it, or give"):
        check_wishes(Use(run, judging={"max_error": 0.1}), task, adapter)
    check_wishes(Use(run, judging={"max_error": 0.1}, threshold=0.5), task, adapter)

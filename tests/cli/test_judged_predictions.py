"""Judgements of predictions: what they add to rows, files, terminal and notes, also those of another package."""

from __future__ import annotations

import csv

import pytest
import torch

from vladapt.core.confidence.selective import Unlike
from vladapt.core.contracts.judgement import PREDICT, Findings, JudgedPredictions
from vladapt.core.errors import ConfigError
from vladapt.core.registry import build_judgement

MODULE = '''
"""How far the best class is ahead of the second."""

from dataclasses import dataclass
from typing import ClassVar

from vladapt.api import JudgedPredictions, Judgement, Record, option


@dataclass(frozen=True, eq=False)
class Leads(Record):
    lead: list[float]

    def note(self):
        return f"the smallest lead is {min(self.lead):.3f}"


@dataclass(eq=False, kw_only=True)
class Lead(Judgement):
    record: ClassVar = Leads
    judges: ClassVar = JudgedPredictions
    at: ClassVar = frozenset({"predict"})
    columns: ClassVar = {"lead": "ahead by"}
    times: float = option(1.0, "what a lead is multiplied by", above=0)

    def compute(self, predictions):
        if self.times == 13:
            raise ValueError("an unlucky number")
        best = predictions.probabilities.topk(2, dim=1).values
        return Leads((self.times * (best[:, 0] - best[:, 1])).tolist())
'''


@pytest.fixture
def another_package(tmp_path, monkeypatch):
    """`Lead`, as pip would install it."""
    folder = tmp_path / "another"
    info = folder / "leads-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "a_lead_in_predictions.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leads\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[vladapt.judgements]\nlead = a_lead_in_predictions:Lead\n")
    monkeypatch.syspath_prepend(folder)


def test_another_package_judges_predictions(vladapt, run, colours, another_package, tmp_path):
    plain, doubled = (vladapt("predict", run, colours / "red", *more, "--json").json for more in ((), ("--times", 2)))
    row = plain["predictions"][0]
    first, second = (each["probability"] for each in row["top"][:2])
    assert row["lead"] == pytest.approx(first - second) and list(row)[-2:] == ["lead", "top"]
    assert doubled["predictions"][0]["lead"] == pytest.approx(2 * row["lead"])
    assert any("smallest lead" in note for note in plain["notes"])

    words = vladapt("predict", run, colours / "red", "--out", tmp_path / "rows.csv").out
    assert "ahead by" in words and "The smallest lead is" in words
    with (tmp_path / "rows.csv").open() as file:
        assert float(next(csv.DictReader(file))["lead"]) == pytest.approx(row["lead"], abs=1e-5)

    failed = vladapt("predict", run, colours / "red", "--times", 13, "--json").json
    assert "lead" not in failed["predictions"][0]
    assert any("'lead' failed and says nothing of these images" in note for note in failed["notes"])
    refused = vladapt("predict", run, colours / "red", "--times", -1)
    assert refused.code == 2 and "times" in refused.error


def test_many_answers_are_told_together_unless_rows_are_asked_for(vladapt, run, colours):
    short, every = (vladapt("predict", run, colours, *more).out for more in ((), ("--rows",)))
    assert "36 images" in short and "Least certain: " in short and len(short.splitlines()) < 20
    assert "Each of the 36 answers: --rows, or in a file: --out predictions.csv" in short
    assert every.count(".png") == 36 and "Least certain" not in every


def test_a_command_that_judges_no_predictions_does_not_take_their_options(vladapt, run, another_package):
    assert "--times" in vladapt("eval", run, "--times", 2).error


def predictions(**how) -> JudgedPredictions:
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)
    of = {"at": PREDICT, "run": None, "class_names": ("a", "b"), "probabilities": probabilities}
    return JudgedPredictions(**{**of, "features": torch.eye(3)[:, :2], **how})


class Calibrated:
    """A calibration of which only what tells unlike images matters."""

    unlike = Unlike(torch.tensor([[1.0, 0.0]]), limit=0.5)


def test_images_far_from_those_of_the_fit_are_unlike():
    judged, findings = predictions(calibration=Calibrated()), Findings({})
    notes = findings.add([build_judgement("unlike-images")], judged)
    assert judged.metrics == {"unlike": [False, True, True]}
    assert len(notes) == 1 and notes[0].startswith(
        "2 of 3 images are unlike those of the fit; the answers for them mean"
    )
    wider = predictions(calibration=Calibrated(), features=torch.eye(3))
    assert Findings({}).add([build_judgement("unlike-images")], wider) == [] and wider.metrics == {}
    assert Findings({}).add([build_judgement("unlike-images")], predictions()) == []


def test_labels_that_are_left_open_are_named_no_more():
    class Open:
        def open_answers(self, probs, max_error):
            return probs < max_error

        def abstention_notes(self, max_error):
            return []

    answers = torch.ones(3, 2, dtype=torch.bool)
    judged = predictions(answers=answers, calibration=Open())
    (note,) = Findings({}).add([build_judgement("coverage", max_error=0.45)], judged)
    assert judged.metrics == {"open": [["b"], ["a"], []]} and note.startswith("33.3% of the answers are left open")
    assert judged.answers.tolist() == [[True, False], [False, True], [True, True]]


def test_a_judgement_cannot_take_a_column_that_is_there():
    judged = predictions(calibration=Calibrated(), metrics={"unlike": None})
    with pytest.raises(ConfigError, match="'unlike' is in the rows already"):
        Findings({}).add([build_judgement("unlike-images")], judged)

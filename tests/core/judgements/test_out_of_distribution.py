"""`eval --holistic`: what is said of scores that tell images of other things, and which of these are compared."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from vladapt.core.confidence.unlike_scores import Separation
from vladapt.core.errors import ConfigError
from vladapt.core.judgements._unlike_sets import places_in
from vladapt.core.judgements.out_of_distribution import OutOfDistribution, SetScores, UnlikeScores


@pytest.fixture
def made() -> UnlikeScores:
    def of(auroc, low, copies, zero_shot):
        scores = {
            "mcm/t1": Separation(auroc - 0.1, [low - 0.1, auroc], 0.9, 0.3, [0.2, 0.4]),
            "mcm/own": Separation(auroc, [low, 0.99], 0.9, 0.1, None),
        }
        return SetScores(80, copies, 0, scores, {"mcm/own": zero_shot, "mcm/t1": 0.6})

    sets = {"near": of(0.9, 0.85, 2, 0.7), "far": of(0.95, 0.8, 0, 0.8)}
    return UnlikeScores(100, headline="mcm/own", sets=sets, without="GL-MCM is left out", lowest=[(4, 0.5)])


def test_what_is_written_is_read_again(made):
    again = UnlikeScores.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == made.to_json() and again.sets["near"].scores == made.sets["near"].scores


def test_the_worst_set_and_the_lowest_limit_count(made):
    score = made.axis_scores()["unlike"]
    assert (score.score, score.interval, score.zero_shot) == (0.9, [0.8, 0.99], 0.7)
    assert "lowest" in score.begins
    lacking = UnlikeScores(0, "unlike images: not tested")
    assert lacking.axis_scores() == {"unlike": "unlike images: not tested"} and lacking.table() is None


def test_all_scores_are_shown_and_the_one_that_was_settled_before_leads(made):
    rows = made.section().rows
    assert [row if isinstance(row, str) else row[0] for row in rows] == [
        "near: 80 images, 2 copies of the run's images left out",
        "MCM, T = 1",
        "MCM, own scale",
        "far: 80 images",
        "MCM, T = 1",
        "MCM, own scale",
    ]
    note = made.section().note
    assert "MCM, own scale is the score that counts" in note and "with an interval from 40 of each on" in note
    first, second = made.notes
    assert "by MCM, own scale: near 0.900 (95 % interval 0.850 to 0.990; 80 images, 2 copies" in first
    assert second == "GL-MCM is left out" and made.table().row_count == 6
    assert made.pictured()[1] == [(4, "50.0% of the others look more ordinary")]


def test_the_table_of_a_terminal_breaks_no_name_and_no_number(made):
    sets = {"remote-sensing sample": made.sets["far"], "near": made.sets["near"]}
    console = Console(width=80, file=io.StringIO())
    console.print(replace(made, sets=sets, headline="mcm/own").table())
    shown = console.file.getvalue()
    for whole in ("remote-sensing sample", "0.950", "(0.800 to 0.990)", "MCM, own scale", "30.0%", "(20.0–40.0%)"):
        assert whole in shown, shown


def test_a_score_of_zero_shot_alone_is_shown_without_the_run(made):
    sets = {"near": replace(made.sets["near"], zero_shot={"mcm/own": 0.7, "gl_mcm/t1": 0.65})}
    *_, (title, *cells) = replace(made, sets=sets).section().rows
    assert title == "GL-MCM, T = 1" and [cell.text for cell in cells] == ["0.650", "–", "–", "–"]


def test_sets_are_named():
    assert places_in("near=a/b,far=c=d") == {"near": "a/b", "far": "c=d"}
    assert places_in("near=a,b,far=c") == {"near": "a,b", "far": "c"}


@pytest.mark.parametrize("value", ["folder", "near=", "=folder", "near=a,near=b"])
def test_other_words_are_refused(value):
    with pytest.raises(ConfigError, match=r"option unlike=.*(give NAME=FOLDER|has near twice)"):
        OutOfDistribution(holistic=True, unlike=value)


def test_sets_without_holistic_are_refused():
    with pytest.raises(ConfigError, match="--unlike: only with --holistic"):
        OutOfDistribution(unlike="near=folder")

"""`--fail-under`: what an evaluation must reach."""

import math

import pytest

from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.runs.limits import Limit, check_asked, parse_limits, unmet

PARTS = [{"share": 0.9, "interval": [0.7, 0.95]}, {"share": 0.6, "interval": [0.5, 0.7]}]
METRICS = {
    "adapted": {"accuracy": 0.85, "macro_f1": 0.8, "ece": 0.1},
    "metric_intervals": {"adapted": {"accuracy": [0.79, 0.9], "macro_f1": None}},
    "subgroups": {"columns": [{"shares": {"Accuracy": {"parts": PARTS}}}]},
    "corruptions": {"kinds": {"fog": {}}, "error": 0.4, "error_interval": [0.3, 0.5]},
}


def test_limits_are_read():
    assert parse_limits("accuracy=0.8, worst_group.point=.6") == (
        Limit("accuracy", 0.8),
        Limit("worst_group", 0.6, point=True),
    )


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy=high", "=0.5", ".point=1", "accuracy=nan", "accuracy=0.8,"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ConfigError, match="--fail-under"):
        parse_limits(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("accuracy=0.78", []),
        ("accuracy=0.8", ["accuracy"]),
        ("accuracy.point=0.8", []),
        ("accuracy.point=0.86,macro_f1.point=0.9", ["accuracy", "macro f1"]),
        ("worst_group=0.5", []),
        ("worst_group=0.55", ["worst group"]),
        ("worst_group.point=0.6", []),
        ("corruptions=0.5", []),
        ("corruptions=0.55", ["corruptions"]),
        ("corruptions.point=0.6", []),
    ],
)
def test_the_lower_limit_is_compared_unless_the_score_is_asked_for(text, names):
    sentences = unmet(METRICS, parse_limits(text))
    assert len(sentences) == len(names) and all(map(str.startswith, sentences, names))


def test_a_sentence_names_score_interval_and_limit():
    [sentence] = unmet(METRICS, parse_limits("accuracy=0.8"))
    assert sentence == "accuracy is 0.850, and its 95% interval begins at 0.790, below 0.8"


def test_a_score_that_is_no_number_reaches_no_limit():
    metrics = {"adapted": {"accuracy": math.nan}, "metric_intervals": {"adapted": {"accuracy": [math.nan, math.nan]}}}
    assert len(unmet(metrics, parse_limits("accuracy=0.1,accuracy.point=0.1"))) == 2


def test_what_was_not_asked_for_is_refused_before_anything_is_computed():
    for name, option, cure in (("worst_group", "by", "--by COLUMN"), ("corruptions", "holistic", "--holistic")):
        for limit in (name, f"{name}.point"):
            with pytest.raises(ConfigError, match=f"--fail-under {name}: give {cure} too, or omit it"):
                check_asked(parse_limits(f"accuracy=0.5,{limit}=0.5"), {option: None})
        check_asked(parse_limits(f"{name}=0.5"), {option: True})
    check_asked(parse_limits("accuracy=0.5"), {})


def test_what_was_asked_for_and_could_not_be_made_says_why():
    nothing = {
        "subgroups": {"columns": []},
        "corruptions": {"kinds": None, "lacking": "images may have several labels"},
    }
    for name, reason in (("worst_group", "no value of --by has enough images"), ("corruptions", "several labels")):
        with pytest.raises(UnknownNameError, match=f"{name}: this evaluation has no such score; .*{reason}"):
            unmet(nothing, [Limit(name, 0.5)])


def test_scores_that_are_not_there_are_refused_with_what_to_give():
    bare = {"adapted": METRICS["adapted"]}
    for name, cure in (
        ("worst_group", "give --by COLUMN"),
        ("corruptions", "give --holistic"),
        ("acuracy", "accuracy"),
    ):
        with pytest.raises(UnknownNameError, match=f"{name}: this evaluation has no such score; .*{cure}"):
            unmet(bare, [Limit(name, 0.5)])
    for metrics, name in ((METRICS, "macro_f1"), (bare, "accuracy")):
        with pytest.raises(ConfigError, match=f"{name}: has no interval here; give {name}.point=0.5"):
            unmet(metrics, [Limit(name, 0.5)])
    with pytest.raises(UnknownNameError):
        unmet(METRICS, [Limit("ece", 0.5)])  # which falls

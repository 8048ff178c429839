"""`--fail-under`: what an evaluation must reach."""

import math

import pytest

from vladapt.core.contracts import Metric
from vladapt.core.contracts.judgement import Findings
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.judgements.corruptions import Corruptions, CorruptionScores, KindScores
from vladapt.core.judgements.subgroups import ByColumn, ByColumns, BySubgroup
from vladapt.core.metrics.subgroups import Subgroup, Subgroups
from vladapt.core.registry import load_domain, task_class
from vladapt.core.runs.limits import Limit, check_asked, parse_limits, unmet

METRICS = {
    "adapted": {"accuracy": 0.85, "macro_f1": 0.8, "ece": 0.1},
    "metric_intervals": {"adapted": {"accuracy": [0.79, 0.9], "macro_f1": None}},
}
CLASSES = {"subgroups": BySubgroup, "corruptions": Corruptions}
NOTHING = Findings(CLASSES)


def parts(*of: Subgroup) -> ByColumns:
    return ByColumns([ByColumn("site", False, 0, False, {"Accuracy": Subgroups(of, 0, None)})])


MADE = Findings(
    CLASSES,
    {
        "subgroups": parts(Subgroup("a", 90, 90, 0.9, [0.7, 0.95]), Subgroup("b", 20, 20, 0.6, [0.5, 0.7])),
        "corruptions": CorruptionScores(
            1,
            kinds={"fog": KindScores([0.6], None, [0.5, 0.7], 0, None, [], None)},
            error=0.4,
            error_interval=[0.3, 0.5],
        ),
    },
)


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
    sentences = unmet(METRICS, parse_limits(text), MADE)
    assert len(sentences) == len(names) and all(map(str.startswith, sentences, names))


def test_a_sentence_names_score_interval_and_limit():
    [sentence] = unmet(METRICS, parse_limits("accuracy=0.8"), MADE)
    assert sentence == "accuracy is 0.850, and its 95 % interval begins at 0.790, below 0.8"


def test_a_score_that_is_no_number_reaches_no_limit():
    metrics = {"adapted": {"accuracy": math.nan}, "metric_intervals": {"adapted": {"accuracy": [math.nan, math.nan]}}}
    assert len(unmet(metrics, parse_limits("accuracy=0.1,accuracy.point=0.1"), NOTHING)) == 2


def test_what_was_not_asked_for_is_refused_before_anything_is_computed():
    for name, cure in (("worst_group", "--by COLUMN"), ("corruptions", "--holistic")):
        for limit in (name, f"{name}.point"):
            with pytest.raises(ConfigError, match=f"--fail-under {name}: give {cure} too, or omit it"):
                check_asked(parse_limits(f"accuracy=0.5,{limit}=0.5"), [BySubgroup(), Corruptions()])
    check_asked(parse_limits("corruptions=0.5,worst_group=0.5"), [BySubgroup(by="site"), Corruptions(holistic=True)])
    check_asked(parse_limits("accuracy=0.5"), [BySubgroup(), Corruptions()])


def test_a_misspelt_name_is_refused_before_anything_is_computed():
    judged = [BySubgroup(by="site"), Corruptions(holistic=True)]
    check_asked(parse_limits("accuracy=0.5,worst_group=0.5"), judged, METRICS)
    for wrong, right in (("acuracy", "accuracy"), ("worst_grup.point", "worst_group")):
        with pytest.raises(UnknownNameError, match=f"no such score; did you mean .*{right}"):
            check_asked(parse_limits(f"{wrong}=0.5"), judged, METRICS)
    check_asked(parse_limits("acuracy=0.5"), judged, {"adapted": None})  # a fit that scored nothing knows no names
    undefined = {"adapted": {"accuracy": 0.9, "auroc": None}}  # other images may have all classes
    check_asked(parse_limits("auroc=0.5"), judged, undefined)


def test_a_share_above_one_is_refused_before_anything_is_computed():
    judged = [BySubgroup(by="site"), Corruptions(holistic=True)]
    for limit in ("accuracy=80", "accuracy.point=1.5", "corruptions=50", "worst_group.point=60"):
        with pytest.raises(ConfigError, match=r"no score is above 1; give a share, such as 0\.8 for 80%"):
            check_asked(parse_limits(limit), judged, METRICS)
    check_asked(parse_limits("accuracy=1,rmse_gain=4"), judged, {"adapted": {"accuracy": 0.9, "rmse_gain": 0.4}})


@pytest.mark.parametrize(
    ("domain", "task", "falling", "rising"),
    [
        ("natural", "classification", ("ece", "ece_uncalibrated"), ("accuracy", "auroc/cat", "macro_f1")),
        ("natural", "regression", ("rmse", "mae", "bias"), ("r2", "r2_of_train_mean")),
        ("natural", "retrieval", ("text_to_image/mean_rank", "image_to_text/median_rank"), ("text_to_image/r1",)),
        ("remote-sensing", "pixel-regression", ("rmse", "rmse_training_mean", "bias"), ("r2", "rmse_gain")),
        ("medical", "volume-segmentation", ("hd95_mm", "hd95_px"), ("dice", "surface_dice")),
    ],
)
def test_a_score_of_which_more_is_not_better_has_no_least_value(domain, task, falling, rising):
    falls = task_class(task)(load_domain(domain)).falls
    metrics = {"adapted": dict.fromkeys((*falling, *rising), 0.4)}
    for name in falling:
        for limits in (parse_limits(f"{name}=0.5"), parse_limits(f"{name}.point=0.5")):
            with pytest.raises(ConfigError, match="more of it is not better"):
                check_asked(limits, [], metrics, falls)
            with pytest.raises(UnknownNameError):
                unmet(metrics, limits, NOTHING, falls)
    for name in rising:
        check_asked(parse_limits(f"{name}.point=0.5"), [], metrics, falls)
        assert len(unmet(metrics, parse_limits(f"{name}.point=0.5"), NOTHING, falls)) == 1


def test_a_metric_of_a_domain_says_itself_that_less_of_it_is_better():
    class Misses(Metric):
        name = "misses"
        falls = True

        def compute(self, logits, labels, class_names):
            return {"left": 0.5}

    domain = load_domain("natural")
    domain.metrics = (Misses,)
    falls = task_class("classification")(domain).falls
    assert falls("misses/left") and falls("misses") and not falls("accuracy")


def test_what_was_asked_for_and_could_not_be_made_says_why():
    lacking = {"subgroups": parts(), "corruptions": CorruptionScores(0, "images may have several labels")}
    for name, reason in (("worst_group", "no value of --by has enough images"), ("corruptions", "several labels")):
        with pytest.raises(UnknownNameError, match=f"{name}: this evaluation has no such score; .*{reason}"):
            unmet({}, [Limit(name, 0.5)], Findings(CLASSES, lacking))


def test_scores_that_are_not_there_are_refused_with_what_to_give():
    bare = {"adapted": METRICS["adapted"]}
    for name, cure in (
        ("worst_group", "give --by COLUMN"),
        ("corruptions", "give --holistic"),
        ("acuracy", "accuracy"),
        ("corruption", "corruptions"),
    ):
        with pytest.raises(UnknownNameError, match=f"{name}: this evaluation has no such score; .*{cure}"):
            unmet(bare, [Limit(name, 0.5)], NOTHING)
    for metrics, name in ((METRICS, "macro_f1"), (bare, "accuracy")):
        with pytest.raises(ConfigError, match=f"{name}: has no interval here; give {name}.point=0.5"):
            unmet(metrics, [Limit(name, 0.5)], NOTHING)
    with pytest.raises(UnknownNameError):
        unmet(METRICS, [Limit("ece", 0.5)], NOTHING, lambda score: score == "ece")

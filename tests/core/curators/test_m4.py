"""M4: the weights that balance attributes best, and what they cannot reach."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import subsets

from vladapt import ConfigError, DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators.m4 import WeightProblem, moments_of, rounded_weights
from vladapt.core.registry import build_curator


def test_weights_moments_and_objective_are_the_optimum(agrees):
    agrees(subsets.m4)


@settings(max_examples=15)
@given(st.integers(0, 99), st.floats(0.1, 0.99), st.sampled_from([0.1, 1.0, 10.0]))
def test_no_weights_are_better(seed, mean, penalty):
    """The dual is a lower bound of every objective: where they meet, both are optimal."""
    random = np.random.default_rng(seed)
    s, y = random.random((30, 2)) < 0.3, random.random((30, 2)) < 0.4
    problem = WeightProblem(moments_of(s, y, [0.5, 0.2]), np.full(6, 0.01), random.random(30), mean, 1.0)
    share = random.dirichlet(np.ones(30))
    multipliers = problem.solve(share, penalty)
    q = problem.weights(multipliers)
    assert share @ q == pytest.approx(mean)
    assert problem.objective(q, share, penalty) == pytest.approx(problem.dual(multipliers, share)[0], abs=1e-6)
    assert q.min() >= 0 and q.max() <= 1


def pairs_of(count=600, seed=0):
    random = np.random.default_rng(seed)
    woman = random.random(count) < 0.3
    nurse = random.random(count) < np.where(woman, 0.6, 0.1)
    return PairTable.of(
        [f"{n:04d}" for n in range(count)],
        text=[f"A {'Woman' if w else 'man'}, {'a nurse' if n else 'at sea'}." for w, n in zip(woman, nurse)],
        woman=woman,
        nurse=nurse.astype(np.int64),
        pilot=random.random(count) < 0.2,
        useful=random.random(count),
    )


PAIRS = pairs_of()
WISH = {"attributes": "woman", "labels": "nurse", "mean": 0.3}


def test_attributes_become_as_frequent_as_wished_and_labels_hardly_depend_on_them():
    decision = build_curator("m4", **WISH, association=0, representation=0, weights=True).decide_all(PAIRS)
    q, woman, nurse = decision.weight, PAIRS.numbers("woman"), PAIRS.numbers("nurse").astype(bool)
    assert q.mean() == pytest.approx(0.3, abs=1e-4)
    assert q[woman].sum() / q.sum() == pytest.approx(0.5, abs=1e-4)
    assert q[woman & nurse].sum() == pytest.approx(q[~woman & nurse].sum(), abs=0.05)


def test_the_draw_keeps_each_pair_with_its_weight():
    scores = build_curator("m4", **WISH).decide_all(PAIRS).scores["m4"]
    kept = sum(build_curator("m4", **WISH, seed=seed).decide_all(PAIRS).keep.astype(int) for seed in range(60))
    woman = PAIRS.numbers("woman")
    for some in (woman, ~woman):
        assert abs(kept[some].mean() / 60 - scores[some].mean()) < 0.01


def test_what_cannot_be_reached_is_told_with_what_is_left():
    survey = build_curator("m4", **WISH | {"mean": 0.95}).survey(PAIRS)
    assert "2 of 2 bounds are missed: woman -0.2" in survey.notes[0] and "give a lower mean" in survey.notes[0]
    assert np.abs(survey.whole["moment_after"]).max() > 0.1
    assert "effective sample size" in survey.notes[1]
    reached = build_curator("m4", **WISH).survey(PAIRS)
    assert "all 2 moments are within their bounds" in reached.notes[0]
    before, after = (abs(reached.whole[f"association_{when}"][0, 0]) for when in ("before", "after"))
    assert before > 0.4 and after < 0.1
    assert 0 < reached.whole["effective_share"][0] < 1


def test_an_attribute_that_nobody_has_is_no_success():
    table = PairTable.of(["a", "b"], woman=[False, False], nurse=[True, False])
    survey = build_curator("m4", **WISH).survey(table)
    assert "bounds are missed" in survey.notes[0]
    assert survey.whole["association_before"][0, 0] == 0


def test_a_table_of_counts_gives_the_weights_of_all_rows():
    curator = build_curator("m4", **WISH, weights=True)
    q = curator.decide_all(PAIRS).weight
    s, y = (PAIRS.numbers(name).astype(bool)[:, None] for name in ("woman", "nurse"))
    rows = WeightProblem(moments_of(s, y, [0.5]), np.full(2, 0.005), np.ones(len(PAIRS)), WISH["mean"], 1.0)
    direct = rows.weights(rows.solve(np.full(len(PAIRS), 1 / len(PAIRS)), 10.0))
    np.testing.assert_allclose(q, direct, atol=1e-5)


def test_utilities_are_few_numbers():
    utility = np.random.default_rng(0).random(50_000) * 100
    assert len(np.unique(rounded_weights(utility))) < 10_000
    np.testing.assert_allclose(rounded_weights(utility), utility, rtol=1e-3)
    assert rounded_weights(np.array([0.0, 1.0, 0.25])).tolist() == [0.0, 1.0, 0.25]


def exact_weights(utility, mean):
    """The optimum over all rows, utilities as they are."""
    s, y = (PAIRS.numbers(name).astype(bool)[:, None] for name in ("woman", "nurse"))
    problem = WeightProblem(moments_of(s, y, [0.5]), np.full(2, 0.005), utility, mean, 1.0)
    share = np.full(len(PAIRS), 1 / len(PAIRS))
    multipliers = problem.solve(share, 10.0)
    q = problem.weights(multipliers)
    assert problem.objective(q, share, 10.0) == pytest.approx(problem.dual(multipliers, share)[0], rel=1e-9, abs=1e-6)
    return q


def with_utility(utility):
    columns = {name: PAIRS.numbers(name) for name in ("woman", "nurse")}
    return PairTable.of(PAIRS.names(), **columns, useful=utility)


@pytest.mark.parametrize("utility", [0.3, 97.3, 1e6])
def test_a_utility_that_all_share_changes_no_weight(utility):
    curator = build_curator("m4", **WISH, utility="useful", weights=True)
    q = curator.decide_all(with_utility(np.full(len(PAIRS), utility))).weight
    np.testing.assert_allclose(q, exact_weights(np.ones(len(PAIRS)), 0.3), atol=1e-6)
    assert q.mean() == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("step", [0.0123, 1.37])
def test_few_utilities_of_any_size_give_the_exact_optimum(step):
    utility = 90.0 + step * np.random.default_rng(1).integers(0, 5, len(PAIRS))
    q = build_curator("m4", **WISH, utility="useful", weights=True).decide_all(with_utility(utility)).weight
    np.testing.assert_allclose(q, exact_weights(utility, 0.3), atol=1e-6)


def test_many_utilities_are_rounded_for_the_table_and_for_the_weights(monkeypatch):
    utility = 90 + np.random.default_rng(1).random(len(PAIRS))
    curator = build_curator("m4", **WISH, utility="useful", weights=True)
    assert not curator.survey(with_utility(utility)).whole["rounded"][0]
    monkeypatch.setattr("vladapt.core.curators.m4.FEW_UTILITIES", 10)
    q = curator.decide_all(with_utility(utility)).weight
    assert curator.survey(with_utility(utility)).whole["rounded"][0]
    np.testing.assert_allclose(q, exact_weights(rounded_weights(utility), 0.3), atol=1e-6)
    assert q.mean() == pytest.approx(0.3, abs=1e-6)


def test_words_that_can_never_match_are_told(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"woman": ["Mrs.", "woman"], "nurse": ["nurse"], "pilot": ["a.m."]}), encoding="utf-8")
    notes = build_curator("m4", **WISH, words=str(path)).survey(PAIRS).notes
    assert "words that can never match: 1 (mrs.)" in notes[-1], "pilot is not asked for"
    path.write_text(json.dumps({"woman": ["woman"], "nurse": ["nurse"]}), encoding="utf-8")
    assert not any("never match" in note for note in build_curator("m4", **WISH, words=str(path)).survey(PAIRS).notes)


def test_flags_are_words_in_texts_of_any_case(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"woman": ["woman", "women"], "nurse": ["Nurse"]}), encoding="utf-8")
    by_words = build_curator("m4", **WISH, words=str(path))
    assert by_words.reads == ("text",)
    first, other = by_words.decide_all(PAIRS), build_curator("m4", **WISH).decide_all(PAIRS)
    np.testing.assert_allclose(first.scores["m4"], other.scores["m4"], atol=1e-6)


def test_every_option_changes_the_weights():
    wish = WISH | {"weights": True}
    first = build_curator("m4", **wish).decide_all(PAIRS).scores["m4"]
    changes = [{"targets": "0.3"}, {"association": 0.05}, {"representation": 0.05}, {"mean": 0.2}]
    changes += [{"utility": "useful"}, {"labels": "pilot"}, {"attributes": "woman,pilot"}]
    for changed in changes:
        other = build_curator("m4", **wish | changed).decide_all(PAIRS).scores["m4"]
        assert np.abs(first - other).max() > 1e-3, changed
    cheap, dear = (
        build_curator("m4", **wish | {"mean": 0.8, "penalty": penalty}).decide_all(PAIRS).scores["m4"]
        for penalty in (0.01, 10)
    )
    assert np.abs(cheap - dear).max() > 0.1
    above = build_curator("m4", **wish | {"mean": 0.6, "most": 2.0}).decide_all(PAIRS)
    assert above.weight.max() > 1
    draws = [build_curator("m4", **WISH, seed=seed).decide_all(PAIRS).keep for seed in (0, 1)]
    assert not np.array_equal(*draws)


def test_what_cannot_be_used_is_one_line(tmp_path):
    for options, message in (
        ({}, "give attributes=NAMES"),
        (WISH | {"targets": "0.5,0.5"}, "2 targets for 1 attributes"),
        (WISH | {"mean": 0.9, "most": 0.5}, "have no mean of 0.9"),
        (WISH | {"most": 2.0}, "is no probability"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_curator("m4", **options)
    with pytest.raises(DataError, match="no column 'sailor'"):
        build_curator("m4", attributes="sailor").decide_all(PAIRS)
    with pytest.raises(DataError, match="not all are 0 or 1"):
        build_curator("m4", attributes="useful").decide_all(PAIRS)
    with pytest.raises(DataError, match="negative or not finite"):
        table = PairTable.of(["a", "b"], woman=[True, False], nurse=[True, False], useful=[-1.0, 1])
        build_curator("m4", **WISH, utility="useful").decide_all(table)
    path = tmp_path / "list.json"
    path.write_text('["woman"]', encoding="utf-8")
    with pytest.raises(DataError, match="dict of names"):
        build_curator("m4", **WISH, words=str(path)).decide_all(PAIRS)

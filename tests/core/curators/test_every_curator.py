"""What every curator promises, found by the registry: nothing depends on the order of the inputs, or on the blocks."""

import numpy as np
import pytest

from vladapt.core.contracts.curator import STAGES, Decision, PairTable, Survey
from vladapt.core.registry import build_curator, curator_class
from vladapt.core.registry.catalogue import curators
from vladapt.core.testing.curation import drawn_pairs, options_of_curator

NAMES = sorted(curators())


def decided(name: str, pairs: PairTable) -> Decision:
    return build_curator(name, **options_of_curator(name, pairs)).decide_all(pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_decision_is_of_every_pair_and_none_twice_the_same_way(name):
    pairs = drawn_pairs()
    first, again = decided(name, pairs), decided(name, pairs)
    assert len(first.reason) == len(pairs)
    assert first.keep.sum() > 0
    assert first.reason.max() <= len(first.rules)
    assert np.array_equal(first.reason, again.reason)
    assert all(values.shape == (len(pairs),) for values in first.scores.values())
    if first.weight is not None:
        assert first.weight.shape == (len(pairs),)
        assert (first.weight[first.keep] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_inputs_changes_nothing(name):
    first, other = decided(name, drawn_pairs()), decided(name, drawn_pairs(shuffled=True))
    assert np.array_equal(first.reason, other.reason)
    for score, values in first.scores.items():
        np.testing.assert_allclose(values, other.scores[score], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_change_nothing(name):
    pairs = drawn_pairs()
    curator = build_curator(name, **options_of_curator(name, pairs))
    survey = curator.survey(pairs)
    whole, reasons = curator.decide(pairs, survey), []
    for rows in pairs.blocks(7):
        part = Survey(survey.whole, {key: values[rows] for key, values in survey.rows.items()})
        made = curator.decide(pairs.among(rows), part)
        assert made.rules == whole.rules
        reasons.append(made.reason)
    assert np.array_equal(np.concatenate(reasons), whole.reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_subset_is_judged_as_if_the_others_were_not_there(name):
    pairs = drawn_pairs()
    rows = np.flatnonzero(pairs.uniform(3, purpose="subset of a test") < 0.7)
    alone = drawn_pairs(rows=rows)
    assert np.array_equal(decided(name, pairs.among(rows)).reason, decided(name, alone).reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_pairs_are_decided_too(name):
    pairs = drawn_pairs(rows=np.arange(2))
    assert len(decided(name, pairs).reason) == 2


@pytest.mark.parametrize("name", NAMES)
def test_it_belongs_to_a_stage_and_cites_what_it_is(name):
    cls = curator_class(name)
    assert cls.stage in STAGES
    assert len(cls.__doc__ or "") > 80


def test_draws_of_two_curators_are_independent_at_the_same_seed(monkeypatch):
    """The sample for k-means, which `d4` and others share, chooses no pair."""
    purposes, uniform = {}, PairTable.uniform

    def drawn(self, seed, rows=slice(None), *, purpose):
        purposes.setdefault(purpose, set()).add(name)
        return uniform(self, seed, rows, purpose=purpose)

    monkeypatch.setattr(PairTable, "uniform", drawn)
    pairs = drawn_pairs(40)
    for name in NAMES:
        options = options_of_curator(name, pairs) | ({"which": "random"} if name == "sem-dedup" else {})
        build_curator(name, **options).decide_all(pairs)
    shared = {purpose: users - {"d4"} for purpose, users in purposes.items() if purpose != "k-means: sample"}
    assert len(shared) > 7 and all(len(users) == 1 for users in shared.values()), shared
    monkeypatch.undo()
    between = np.corrcoef([drawn_pairs(600).uniform(0, purpose=purpose) for purpose in purposes])
    assert np.abs(between - np.eye(len(between))).max() < 0.2

"""Greedy k-centre: what is kept covers the rest."""

import numpy as np
import pytest

from vladapt import DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


def distances_to(keep, column="image_features"):
    rows = PAIRS.unit(column).astype(float)
    return np.linalg.norm(rows[:, None] - rows[keep], axis=2).min(axis=1)


def test_what_is_kept_covers_the_rest_better_than_a_random_subset():
    decision = build_curator("k-center", fraction=0.1).decide_all(PAIRS)
    ours = distances_to(decision.keep)
    np.testing.assert_allclose(decision.scores["distance"], ours, atol=1e-3)
    assert decision.keep.sum() == 12
    radius = [
        distances_to(build_curator("random", fraction=0.1, seed=n).decide_all(PAIRS).keep).max() for n in range(9)
    ]
    assert ours.max() < min(radius)


def test_each_is_the_farthest_of_those_before_it():
    survey = build_curator("k-center", fraction=0.1, seed=2).survey(PAIRS)
    order = np.argsort(survey.rows["rank"])[len(PAIRS) - 12 :]
    assert order[0] == PAIRS.uniform(2, purpose="k-center: first centre").argmin()
    for count in range(1, 12):
        assert order[count] == distances_to(order[:count]).argmax()
    assert f"all pairs lie within {distances_to(order).max():.3f}" in survey.notes[0]


def test_every_option_changes_the_choice():
    first = build_curator("k-center").decide_all(PAIRS).keep
    for changed in ({"fraction": 0.2}, {"features": "caption_features"}, {"seed": 1}):
        assert not np.array_equal(first, build_curator("k-center", **changed).decide_all(PAIRS).keep), changed


def test_copies_are_chosen_last():
    rows = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 2]]
    keep = build_curator("k-center", fraction=0.6).decide_all(PairTable.of(list("abcde"), image_features=rows)).keep
    assert keep[3:].all() and keep[:3].sum() == 1
    assert (
        build_curator("k-center", fraction=1.0).decide_all(PairTable.of(list("abcde"), image_features=rows)).keep.all()
    )


def test_features_that_are_not_finite_are_one_line():
    table = PairTable.of(["a", "b"], image_features=np.array([[1.0, np.nan], [1, 0]], np.float32))
    with pytest.raises(DataError, match="1 rows are not finite"):
        build_curator("k-center").decide_all(table)

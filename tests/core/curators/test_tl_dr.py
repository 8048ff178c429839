"""TL;DR: every so many-th member of each cluster, of the better half."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt import DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators._kmeans import cluster
from vladapt.core.curators.tl_dr import every_nth
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

PAIRS = drawn_pairs()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 7))
def test_every_nth_member_is_that_of_the_list_of_a_cluster(clusters, every):
    members = {each: [n for n, other in enumerate(clusters) if other == each] for each in clusters}
    wanted = sorted(n for each in members.values() for n in each[::every])
    assert np.flatnonzero(every_nth(np.array(clusters), every)).tolist() == wanted


def test_members_in_turn_are_kept_where_they_are_of_the_better_half():
    decision = build_curator("tl-dr", every=3, clusters=4).decide_all(PAIRS)
    cosines = np.einsum("nd,nd->n", PAIRS.unit("image_features"), PAIRS.unit("caption_features"))
    turn = every_nth(cluster(PAIRS, "image_features", 4, 0).nearest[:, 0], 3)
    assert np.array_equal(decision.keep, turn & (cosines >= np.sort(cosines)[60]))
    assert decision.rules == ("not its turn in its cluster", "others match better")
    np.testing.assert_allclose(decision.scores["match"], cosines, rtol=1e-5)


def test_every_option_changes_the_choice():
    options = {"every": 3, "clusters": 4}
    first = build_curator("tl-dr", **options).decide_all(PAIRS).keep
    changes = ({"every": 2}, {"better": 0.9}, {"score": "width"}, {"clusters": 7}, {"features": "caption_features"})
    for changed in (*changes, {"seed": 5}):
        assert not np.array_equal(first, build_curator("tl-dr", **options | changed).decide_all(PAIRS).keep), changed


def test_a_score_is_read_in_place_of_captions():
    assert build_curator("tl-dr", score="width").reads == ("image_features", "width")
    features, options = np.eye(4, dtype=np.float32), {"score": "itm", "every": 1, "clusters": 1}
    table = PairTable.of(list("abcd"), image_features=features, itm=[0.1, np.nan, 0.5, 0.4])
    assert build_curator("tl-dr", **options).decide_all(table).keep.tolist() == [False, False, True, True]
    assert build_curator("tl-dr", **options, better=1.0).decide_all(table).keep.tolist() == [True, False, True, True]
    with pytest.raises(DataError, match="not a finite number"):
        table = PairTable.of(["a", "b"], image_features=features[:2], itm=[0.5, np.inf])
        build_curator("tl-dr", **options).decide_all(table)


def test_what_is_kept_is_told():
    survey = build_curator("tl-dr", every=3, clusters=4).survey(PAIRS)
    kept = (survey.rows["turn"] & survey.rows["fits"]).sum()
    assert (
        "one in 3 of each of 4 clusters" in survey.notes[0]
        and f"{kept} of them are in the better part" in survey.notes[0]
    )

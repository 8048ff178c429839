"""CLIP score by threshold and by fraction, of features and of a column."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import filters

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators.clip_score import score_at
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs


def test_fractions_keep_what_datacomp_keeps(agrees):
    agrees(filters.clip_score_)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30), st.floats(0.01, 1))
def test_as_many_pairs_reach_the_score_at_a_rank_or_more_where_scores_are_equal(scores, fraction):
    scores = np.array(scores, np.float32)
    lowest = score_at(scores, fraction)
    wanted = min(int(len(scores) * fraction) + 1, len(scores))
    assert (scores >= lowest).sum() >= wanted > (scores > lowest).sum()


def test_the_score_is_the_cosine_and_the_note_names_its_encoder():
    pairs = drawn_pairs()
    exact = (pairs.unit("image_features") * pairs.unit("caption_features")).sum(axis=1)
    curator = build_curator("clip-score")
    decision = curator.decide_all(pairs)
    np.testing.assert_allclose(decision.scores["clip_score"], exact, rtol=1e-5, atol=1e-6)
    assert decision.keep.sum() == 37, "int(n f) + 1"
    assert exact[decision.keep].min() > exact[~decision.keep].max()
    assert "drawn" in curator.survey(pairs).notes[0]
    named = replace(pairs, spec="open_clip:ViT-B-32@openai")
    assert curator.survey(named).notes[0].startswith("CLIP score of open_clip:ViT-B-32@openai: ")
    for name in (named.spec, named.encoder):
        build_curator("clip-score", threshold=0.3, encoder=name).survey(named)


def test_a_threshold_is_inclusive_and_equal_scores_share_a_fate():
    pairs = PairTable.of(list("abcde"), made=np.array([0.5, 0.3, 0.3, 0.1, np.nan]))
    by_threshold = build_curator("clip-score", column="made", threshold=0.3, encoder="ViT-B-32")
    assert by_threshold.decide_all(pairs).keep.tolist() == [True, True, True, False, False]
    assert "ViT-B-32" in by_threshold.survey(pairs).notes[0]
    by_fraction = build_curator("clip-score", column="made", fraction=0.25).decide_all(pairs)
    assert by_fraction.keep.tolist() == [True, True, True, False, False]
    assert build_curator("clip-score", column="made", fraction=1.0).decide_all(pairs).keep.sum() == 4


def test_a_column_is_compared_with_all_its_digits():
    names = [f"{n:02d}" for n in range(10)]
    pairs = PairTable.of(names, made=0.3 + 1e-10 * np.arange(10))
    decision = build_curator("clip-score", column="made", fraction=0.3).decide_all(pairs)
    assert np.flatnonzero(decision.keep).tolist() == [6, 7, 8, 9], "int(n f) + 1"
    assert decision.scores["clip_score"].dtype == np.float32
    strict = build_curator("clip-score", column="made", threshold=0.3 + 5e-10, encoder="B-32").decide_all(pairs)
    assert np.flatnonzero(strict.keep).tolist() == [5, 6, 7, 8, 9]
    single = PairTable.of(list("ab"), made=np.array([0.7, 0.6], np.float32))
    assert build_curator("clip-score", column="made", threshold=0.7, encoder="B-32").decide_all(single).keep[0]


def test_pairs_without_a_score_count_as_in_datacomp():
    pairs = PairTable.of(list("abcdefgh"), made=np.array([0.1, np.nan, 0.2, 0.3, np.nan, 0.4, 0.5, np.nan]))
    keep = build_curator("clip-score", column="made", fraction=0.3).decide_all(pairs).keep
    assert "".join(np.array(list("abcdefgh"))[keep]) == "dfg", "int(8 f) + 1"


def test_a_threshold_without_its_encoder_is_refused():
    with pytest.raises(ConfigError, match="a threshold holds for one encoder; give encoder="):
        build_curator("clip-score", column="made", threshold=0.3)
    nameless = PairTable.of(["a"], image_features=np.ones((1, 2)), caption_features=np.ones((1, 2)))
    with pytest.raises(DataError, match="do not say theirs"):
        build_curator("clip-score", threshold=0.3).decide_all(nameless)
    assert build_curator("clip-score", threshold=0.3, encoder="mine").decide_all(nameless).keep.all()
    with pytest.raises(DataError, match="of encoder drawn, the threshold is for other"):
        build_curator("clip-score", threshold=0.3, encoder="other").decide_all(drawn_pairs())
    with pytest.raises(ConfigError, match="give one of them"):
        build_curator("clip-score", threshold=0.3, fraction=0.3)


def test_scores_that_are_none_are_said():
    with pytest.raises(DataError, match="no pair has a score"):
        build_curator("clip-score", column="made").decide_all(PairTable.of(["a"], made=np.array([np.nan])))
    with pytest.raises(DataError, match="no column 'made'"):
        build_curator("clip-score", column="made").decide_all(drawn_pairs())
    with pytest.raises(DataError, match="these are strings"):
        build_curator("clip-score", column="text").decide_all(drawn_pairs())

"""A query among drawn ones."""

from types import SimpleNamespace

import numpy as np
import pytest

from vladapt.core.retrieval.above_chance import DRAWN, AmongDrawn, among_drawn, drawn_queries


def searched(scores):
    """A search whose best answers have these scores."""
    return lambda texts: [[SimpleNamespace(score=score)] for score, _ in zip(scores, texts)]


def test_drawn_queries_have_as_many_words_and_are_the_same_each_time():
    drawn = drawn_queries("a dog on the beach")
    assert len(drawn) == DRAWN == len(set(drawn)) and {len(query.split()) for query in drawn} == {5}
    assert drawn == drawn_queries("five words and no more") != drawn_queries("four words no more")
    assert {len(query.split()) for query in drawn_queries("word " * 200)} == {40}


@pytest.mark.parametrize(("better", "stands_out"), [(0, True), (1, True), (2, False), (39, False)])
def test_it_stands_out_above_all_but_one_in_twenty(better, stands_out):
    among = among_drawn("a dog", 0.5, searched([0.6] * better + [0.4] * (DRAWN - better)))
    assert among == AmongDrawn(better + 1, DRAWN) and among.stands_out is stands_out
    assert bool(among.warning) is not stands_out
    assert stands_out or f"{better} of 39 random queries of the same length" in among.warning


def test_equal_scores_do_not_stand_out():
    assert not among_drawn("a dog", 0.5, searched([0.5] * DRAWN)).stands_out


def test_words_that_mean_nothing_stand_out_once_in_twenty():
    """The query's best score is drawn from what drawn queries have."""
    rng = np.random.default_rng(0)
    told = [among_drawn("a dog", rng.normal(), searched(rng.normal(size=DRAWN))).stands_out for _ in range(4000)]
    assert 0.04 < np.mean(told) < 0.06

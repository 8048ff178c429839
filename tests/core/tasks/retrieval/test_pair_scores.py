"""Scores of pairs that were looked at together: they lie on disk, and rank as a matrix in memory does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.metrics.retrieval import rankings, rankings_of_scores
from vladapt.core.tasks.retrieval.encoding import PairScores


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 9), at_once=st.integers(1, 60), best=st.booleans())
def test_rankings_by_scores_are_those_by_features(seed, queries, at_once, best):
    gallery, labels = drawn(12, 4, seed=seed), torch.arange(12) // 2
    query, own = drawn(queries, 4, seed=seed + 1), torch.arange(queries) % 6
    by_features = rankings(query, gallery, own, labels, one_per_label=best)
    scores = query @ gallery.T
    how = {"one_per_label": best, "numbers_at_once": at_once}
    by_scores = rankings_of_scores(lambda rows: scores[rows], own, labels, **how)
    for name, value in vars(by_features).items():
        assert torch.equal(getattr(by_scores, name), value), name


def test_images_that_cannot_be_read_and_texts_said_twice_are_found_in_the_table():
    """Four images, of which the second is torn, and three distinct texts, the last of them said twice."""
    table = PairScores.empty_table(4, 3)
    table[[0, 2, 3]] = drawn(3, 3, seed=1)
    scores = PairScores(table, torch.tensor([0, 2, 3]), torch.tensor([0, 1, 2, 2]))
    whole = table[[0, 2, 3]][:, [0, 1, 2, 2]]
    assert torch.equal(scores.of_images(torch.tensor([2, 0])), whole[[2, 0]])
    assert torch.equal(scores.of_texts(torch.tensor([3, 1, 0])), whole[:, [3, 1, 0]].T)


def test_the_table_is_not_in_memory():
    """1 GB of scores, of which nothing is held until it is written."""
    table = PairScores.empty_table(1 << 14, 1 << 14)
    table[7, 5] = 1.5
    assert float(table[7, 5]) == 1.5 and float(table[-1, -1]) == 0.0

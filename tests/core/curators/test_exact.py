"""Exact copies: equal bytes or pixels; the largest, best, first stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vladapt import DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _copies
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs


def table(**columns):
    count = len(next(iter(columns.values())))
    return PairTable.of([f"{n}" for n in range(count)], **columns)


def kept(pairs, **options):
    return np.flatnonzero(build_curator("exact", **options).decide_all(pairs).keep).tolist()


def test_of_equal_bytes_one_stays_and_no_digest_is_no_copy():
    pairs = table(sha256=["a", "b", "a", "", "", None, "b", "a"])
    decision = build_curator("exact").decide_all(pairs)
    assert np.flatnonzero(decision.keep).tolist() == [0, 1, 3, 4, 5]
    assert decision.scores["copies"].tolist() == [3, 2, 3, 1, 1, 1, 2, 3]
    assert {decision.rules[r - 1] for r in decision.reason if r} == {"copy of the same bytes"}


def test_equal_pixels_tie_where_they_are_asked_for():
    pairs = table(sha256=["a", "b", "c", "d", "a"], pixels_sha256=["x", "x", "", "", "x"])
    decision = build_curator("exact", pixels=True).decide_all(pairs)
    assert [decision.rules[r - 1] if r else "" for r in decision.reason] == [
        "",
        "copy of the same pixels",
        "",
        "",
        "copy of the same bytes",
    ]
    assert kept(pairs) == [0, 1, 2, 3]


def test_the_largest_stays_then_the_best_pair_then_the_smallest_id():
    same = {"sha256": ["a"] * 4}
    sizes = {"width": [10, 20, 20, 5], "height": [10, 20, 20, 5]}
    assert kept(table(**same)) == [0]
    assert kept(table(**same, **sizes)) == [1]
    assert kept(table(**same, **sizes, aesthetic=[9, 1, 2, 9]), score="aesthetic") == [2]
    image = np.eye(2)[[0, 0, 0, 0]]
    captions = np.eye(2)[[1, 1, 0, 0]]
    assert kept(table(**same, image_features=image, caption_features=captions)) == [2]
    assert kept(table(**same, **sizes, image_features=image, caption_features=captions)) == [2]
    assert kept(table(**same, aesthetic=[1.0, np.nan, 3.0, 2.0]), score="aesthetic") == [2]


def test_capital_letters_of_a_digest_count_as_small_ones():
    assert kept(table(sha256=["AB" * 32, "ab" * 32, "cd" * 32])) == [0, 2]
    assert kept(table(sha256=["", "", ""], pixels_sha256=["aB", "x", "Ab"]), pixels=True) == [0, 1]


def test_pairs_with_other_captions_may_stay():
    pairs = table(sha256=["a", "a", "a", "", ""], text=["dog", "cat", "dog", "dog", "dog"])
    assert kept(pairs) == [0, 3, 4]
    assert kept(pairs, same_caption=True) == [0, 1, 3, 4]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 60), st.integers(0, 999))
def test_groups_are_connected_components_however_many_edges_are_held(count, edges, seed):
    random = np.random.default_rng(seed)
    pairs = random.integers(count, size=(2, edges))
    graph = coo_matrix((np.ones(edges), tuple(pairs)), shape=(count, count))
    wanted = connected_components(graph, directed=False)[1]
    most = _copies.MOST_EDGES
    try:
        _copies.MOST_EDGES = 7
        groups = _copies.groups_of(count, zip(np.array_split(pairs[0], 5), np.array_split(pairs[1], 5)))
    finally:
        _copies.MOST_EDGES = most
    assert np.array_equal(groups[:, None] == groups, wanted[:, None] == wanted)
    rank = random.permutation(count)
    best = _copies.best_of(groups, rank)
    assert all(rank[best[n]] == rank[groups == groups[n]].min() for n in range(count))


def test_bad_input_is_one_line():
    with pytest.raises(DataError, match="no column 'sha256'; give a table with a column 'sha256'"):
        build_curator("exact").decide_all(table(text=["a"]))
    with pytest.raises(DataError, match="no column 'aesthetic'"):
        build_curator("exact", score="aesthetic").decide_all(drawn_pairs())

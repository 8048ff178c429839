"""Hashes a few bits apart: every pair is found."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.data import bits_apart, hashes_within, near_pairs


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 999))
def test_every_pair_within_the_distance_is_found(distance, seed):
    random = np.random.default_rng(seed)
    others = random.integers(1, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in random.choice(64, n % 13, replace=False)) for n in range(60)]
    hashes = random.permutation(others ^ np.array(flips, np.uint64))
    every = np.stack([bits_apart(np.full(60, each), others) for each in hashes])
    met = np.full((60, 60), 99)
    for rows, columns, apart in hashes_within(hashes, others, distance):
        met[rows, columns] = apart
    assert np.array_equal(met, np.where(every <= distance, every, 99))


def test_none_are_within_none():
    some = np.array([1, 2], np.uint64)
    assert not [len(rows) for rows, _, _ in hashes_within(some, some[:0], 4) if len(rows)]
    assert not list(hashes_within(some[:0], some, 4))


def _met(hashes, distance, small):
    pairs = [np.stack(each, axis=1) for each in near_pairs(hashes, distance, small)]
    rows = [(min(one, other), max(one, other), apart) for one, other, apart in np.concatenate(pairs).tolist()]
    assert len(set(rows)) == len(rows)
    return set(rows)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 6), st.integers(0, 999))
def test_of_small_groups_of_one_hash_every_pair_is_given(distance, seed):
    random = np.random.default_rng(seed)
    few = np.uint64(1) << random.integers(0, 64, 8).astype(np.uint64)
    hashes = random.choice(few, 30)
    one, other = np.triu_indices(30, 1)
    apart = bits_apart(hashes[one], hashes[other])
    every = {row for row in zip(one.tolist(), other.tolist(), apart.tolist(), strict=True) if row[2] <= distance}
    assert _met(hashes, distance, small=30) == every
    chain = _met(hashes, distance, small=1)
    assert chain <= every and sum(not row[2] for row in chain) == 30 - len(np.unique(hashes))


def test_a_large_group_is_a_chain_beside_small_ones():
    hashes = np.array([1, 1, 1, 1, 3, 3], np.uint64)
    assert _met(hashes, 1, small=2) == {(0, 1, 0), (1, 2, 0), (2, 3, 0), (4, 5, 0), (0, 4, 1), (0, 5, 1)}
    assert _met(hashes, 1, small=1) == {(0, 1, 0), (1, 2, 0), (2, 3, 0), (4, 5, 0), (0, 4, 1)}
    assert not _met(hashes[:1], 1, small=4)

"""Hashes a few bits apart: every pair is found."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.data import bits_apart, hashes_within


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

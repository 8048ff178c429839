"""A random subset."""

import numpy as np

from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs


def test_fraction_and_seed_say_which():
    pairs = drawn_pairs()
    half = build_curator("random", fraction=0.5).decide_all(pairs).keep
    assert half.sum() == 60
    quarter = build_curator("random", fraction=0.25).decide_all(pairs).keep
    assert (half | ~quarter).all(), "a smaller subset lies in a larger one of the same seed"
    assert not np.array_equal(half, build_curator("random", fraction=0.5, seed=1).decide_all(pairs).keep)


def test_each_pair_is_as_likely_as_another():
    pairs = drawn_pairs()
    counts = sum(
        build_curator("random", fraction=0.5, seed=seed).decide_all(pairs).keep.astype(int) for seed in range(200)
    )
    assert abs(counts.mean() - 100) < 1e-9
    assert counts.min() > 60 and counts.max() < 140

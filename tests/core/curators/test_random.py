"""A random subset."""

import numpy as np
import pytest

from vladapt.core.contracts.curator import PairTable
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


def test_after_a_balance_it_leaves_frequent_and_rare_entries_in_their_shares(tmp_path):
    (tmp_path / "entries.txt").write_text("dog\nrare bird\n", encoding="utf-8")
    texts = ["a dog"] * 4000 + ["a rare bird"] * 400
    pairs = PairTable.of([f"{n:04d}" for n in range(len(texts))], text=texts)
    balance = build_curator("metaclip", metadata=str(tmp_path / "entries.txt"), limit=400)
    left = pairs.among(balance.decide_all(pairs).keep)
    rare = np.array(left.strings("text")) == "a rare bird"
    keep = build_curator("random", fraction=0.5).decide_all(left).keep
    assert keep[rare].mean() == pytest.approx(0.5, abs=0.08)
    assert keep[~rare].mean() == pytest.approx(0.5, abs=0.08)


def test_a_balance_after_it_keeps_the_product_of_both_shares():
    pairs = PairTable.of([f"{n:04d}" for n in range(4400)], label=["many"] * 4000 + ["few"] * 400)
    left = pairs.among(build_curator("random", fraction=0.5).decide_all(pairs).keep)
    decision = build_curator("square-root", column="label", fraction=0.2).decide_all(left)
    for label in ("many", "few"):
        rows = np.array(left.strings("label")) == label
        assert decision.keep[rows].mean() == pytest.approx(decision.scores["share"][rows][0], abs=0.09)

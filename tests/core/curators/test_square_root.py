"""Square-root resampling: what is kept of a class falls with the root of its size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import DataError
from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators.square_root import keep_shares
from vladapt.core.registry import build_curator
from vladapt.core.testing.curation import drawn_pairs

SIZES = {"rare": 4, "some": 100, "many": 1600}
LABELS = [name for name, count in SIZES.items() for _ in range(count)]
PAIRS = PairTable.of([f"{n:05d}" for n in range(len(LABELS))], label=LABELS, number=[len(name) for name in LABELS])


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=9), st.floats(0.01, 1), st.floats(0, 1))
def test_shares_keep_the_fraction_and_fall_with_the_power(sizes, fraction, power):
    sizes = np.array(sizes)
    shares = keep_shares(sizes, fraction, power)
    assert sizes @ shares == pytest.approx(fraction * sizes.sum())
    assert shares.max() <= 1
    part = shares < 1 - 1e-9
    rates = (shares * sizes**power)[part]
    assert len(rates) == 0 or rates == pytest.approx(rates[0])


def test_sixteen_times_as_many_pairs_are_four_times_as_many_that_are_kept():
    kept = [
        build_curator("square-root", column="label", fraction=0.1, seed=n).decide_all(PAIRS).keep for n in range(40)
    ]
    counts = {name: np.mean([keep[np.array(LABELS) == name].sum() for keep in kept]) for name in SIZES}
    assert counts["many"] / counts["some"] == pytest.approx(4, rel=0.1)
    assert sum(counts.values()) == pytest.approx(0.1 * len(PAIRS), rel=0.05)


def test_weights_make_classes_as_heavy_as_their_roots():
    decision = build_curator("square-root", column="label", weights=True).decide_all(PAIRS)
    assert decision.keep.all()
    assert decision.weight.mean() == pytest.approx(1)
    heavy = {name: decision.weight[np.array(LABELS) == name].sum() for name in SIZES}
    assert heavy["many"] / heavy["rare"] == pytest.approx(20, rel=1e-4)


def test_every_option_changes_the_choice():
    drawn, pairs = {"column": "label", "fraction": 0.1}, drawn_pairs()
    clustered = {"clusters": 3, "fraction": 0.3}
    for table, options, changes in (
        (PAIRS, drawn, ({"fraction": 0.2}, {"power": 1.0}, {"seed": 1}, {"column": "number"})),
        (pairs, clustered, ({"clusters": 9}, {"features": "caption_features"})),
    ):
        first = build_curator("square-root", **options).decide_all(table).keep
        for changed in changes:
            other = build_curator("square-root", **options | changed).decide_all(table).keep
            assert not np.array_equal(first, other), changed


def test_numbers_strings_and_what_is_missing_are_classes():
    table = PairTable.of(["a", "b", "c", "d"], number=[1.0, np.nan, np.nan, 1.0], word=["x", None, None, "y"])
    for column, sizes in (("number", [2, 2]), ("word", [1, 2, 1])):
        survey = build_curator("square-root", column=column).survey(table)
        assert sorted(survey.whole["pairs"]) == sorted(sizes)
    assert "2 classes of 2 to 2 pairs" in build_curator("square-root", column="number").survey(table).notes[0]


def test_what_is_no_class_is_one_line():
    with pytest.raises(DataError, match="no column 'topic'"):
        build_curator("square-root", column="topic").decide_all(PAIRS)
    with pytest.raises(DataError, match="these are features"):
        build_curator("square-root", column="image_features").decide_all(drawn_pairs())

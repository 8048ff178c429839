"""Unequal few-shot draws: counts and rows are those of SS-Text's released code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt import CapabilityError, Item, Labels
from vladapt.core.data.sampling import REALISTIC, RELAXED, SCENARIOS, STANDARD, scenario_counts, scenario_rows
from vladapt.core.data.sampling import scenario_shots as shots_of

POOLS = st.lists(st.integers(1, 60), min_size=2, max_size=12)


def test_rows_are_the_reference_s(references):
    for reference in references("sstext"):
        pool = reference["pool_labels"].numpy()
        classes = int(pool.max()) + 1
        names = [name for name in reference.tensors if name.endswith("_index") and name != "pool_index"]
        assert names
        for name in names:
            scenario, shots, seed, _ = name.split("_")
            rows = scenario_rows(pool, int(shots[1:]), int(seed[1:]), classes, scenario)
            assert rows == reference[name].tolist(), name


@pytest.mark.parametrize(
    ("scenario", "counts"), [(STANDARD, [4, 4, 4]), (RELAXED, [10, 1, 1]), (REALISTIC, [12, 0, 0])]
)
def test_a_rare_class_has_its_share_or_one_or_none(scenario, counts):
    assert scenario_counts(np.array([96, 2, 2]), 4, scenario) == counts


@given(POOLS, st.integers(1, 16), st.integers(0, 9), st.sampled_from(SCENARIOS))
def test_no_class_gives_more_than_it_has_and_no_more_than_k_on_average_is_drawn(pool, shots, seed, scenario):
    labels = np.repeat(np.arange(len(pool)), pool)
    rows = scenario_rows(labels, shots, seed, len(pool), scenario)
    drawn = np.bincount(labels[rows], minlength=len(pool))
    assert len(set(rows)) == len(rows) <= shots * len(pool)
    assert (drawn <= pool).all()
    assert scenario == REALISTIC or (drawn >= 1).all()
    assert labels[rows].tolist() == sorted(labels[rows])


def test_another_seed_draws_other_rows():
    labels = np.repeat(np.arange(3), 50)
    assert scenario_rows(labels, 4, 0, 3, RELAXED) != scenario_rows(labels, 4, 1, 3, RELAXED)


def test_several_labels_are_refused(tmp_path):
    items = [Item(str(i), tmp_path, target=Labels((1.0, 0.0))) for i in range(4)]
    with pytest.raises(CapabilityError, match="several labels"):
        shots_of(items, 1, 0, num_classes=2, scenario=RELAXED)

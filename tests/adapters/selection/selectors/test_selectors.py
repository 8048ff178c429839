"""Selectors: the fixture of PCB's released code, closed forms, and what holds for all."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.metrics import selectors

from vladapt.core.contracts.selector import Pool
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.registry import build_selector, catalogue

NAMES = sorted(catalogue.selectors())


def pool_of(images=40, classes=3, labelled=(), seed=0, width=5) -> Pool:
    draw = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(images, width, generator=draw), dim=1)
    probabilities = torch.randn(images, classes, generator=draw).softmax(dim=1)
    known = torch.tensor(labelled, dtype=torch.int64)
    rest = torch.tensor([row for row in range(images) if row not in labelled])
    counts = torch.bincount(known % classes, minlength=classes).float()
    return Pool(features, rest, known, counts, probabilities)


def test_agrees_with_the_released_code(agrees):
    agrees(selectors)


def test_margin_takes_the_closest_pair():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.39, 0.21], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]])
    pool = Pool(torch.eye(4), torch.arange(4), torch.zeros(0, dtype=torch.int64), torch.zeros(3), probabilities)
    assert sorted(build_selector("margin").select(pool, 2)) == [1, 3]
    assert build_selector("entropy").select(pool, 1) == [3]


def test_coreset_covers_as_k_centre_greedy_does():
    places = torch.tensor([[0.0], [1.0], [5.0], [9.0], [9.5]])
    pool = Pool(places, torch.tensor([1, 2, 3, 4]), torch.tensor([0]), torch.zeros(2))
    assert build_selector("coreset").select(pool, 3) == [4, 2, 1]  # 3 lies within 0.5 of a centre


def test_badge_draws_by_squared_distance():
    """Two places besides the first: one three times as far is drawn nine times as often."""
    features = torch.tensor([[2.0, 0.0], [1.9, 0.0], [1.7, 0.0]])  # gradients on a line
    probabilities = torch.tensor([[0.6, 0.4]] * 3)
    pool = Pool(features, torch.arange(3), torch.zeros(0, dtype=torch.int64), torch.zeros(2), probabilities)
    seconds = [build_selector("badge").select(pool, 2, seed)[1] for seed in range(400)]
    assert np.mean([second == 2 for second in seconds]) == pytest.approx(0.9, abs=0.04)


def test_pcb_draws_the_class_with_the_fewest_images():
    probabilities = F.one_hot(torch.arange(60) % 3, 3).float()
    features = F.normalize(torch.randn(60, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    pool = Pool(features, torch.arange(60), torch.zeros(0, dtype=torch.int64), torch.tensor([4.0, 0, 2]), probabilities)
    rows = build_selector("pcb", base="random", share=1.0, first="predicted").select(pool, 6, seed=2)
    assert torch.bincount(torch.tensor(rows) % 3, minlength=3).tolist() == [0, 4, 2]


def test_pcb_starts_at_random_as_published():
    pool, again = pool_of(), pool_of()
    assert build_selector("pcb").select(pool, 6, seed=3) == build_selector("random").select(again, 6, seed=3)
    assert build_selector("pcb", first="predicted").select(pool, 6, seed=3) != build_selector("pcb").select(
        pool, 6, seed=3
    )


@pytest.mark.parametrize("options", [{"base": "coreset"}, {"share": 0.5}, {"base": "random"}, {"base": "entropy"}])
def test_options_of_pcb_change_what_is_chosen(options):
    pool = pool_of(120, 3, labelled=(0, 1, 2, 3))
    usual = [build_selector("pcb").select(pool, 8, seed) for seed in range(4)]
    assert [build_selector("pcb", **options).select(pool, 8, seed) for seed in range(4)] != usual


def test_epsilon_of_entropy_changes_what_is_chosen():
    rows = torch.tensor([[0.52, 0.48, 0.0], [0.77, 0.115, 0.115]])
    pool = Pool(torch.eye(2), torch.arange(2), torch.zeros(0, dtype=torch.int64), torch.zeros(3), rows)
    assert build_selector("entropy").select(pool, 1) == [1]
    assert build_selector("entropy", epsilon=0.1).select(pool, 1) == [0]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(data=st.data())
def test_every_selector_takes_candidates_alone_each_once_and_the_same_again(name, data):
    images, classes = data.draw(st.integers(2, 30)), data.draw(st.integers(2, 5))
    labelled = tuple(range(data.draw(st.integers(0, images - 1))))
    pool, seed = pool_of(images, classes, labelled, seed=images), data.draw(st.integers(0, 99))
    count = data.draw(st.integers(0, len(pool.candidates)))
    rows = build_selector(name).select(pool, count, seed)
    assert len(set(rows)) == count and set(rows) <= set(pool.candidates.tolist())
    assert rows == build_selector(name).select(pool, count, seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_selector_manages_with_copies(name):
    same = Pool(
        torch.ones(6, 3), torch.arange(6), torch.zeros(0, dtype=torch.int64), torch.zeros(2), torch.full((6, 2), 0.5)
    )
    assert sorted(build_selector(name).select(same, 6)) == list(range(6))


def test_what_is_wrong_is_one_line():
    with pytest.raises(UnknownNameError, match="did you mean badge"):
        build_selector("badgr")
    with pytest.raises(ConfigError, match="base"):
        build_selector("pcb", base="margin")
    with pytest.raises(ConfigError, match="50 images are asked for, there are 40 candidates"):
        build_selector("random").select(pool_of(), 50)
    pool = pool_of()
    with pytest.raises(CapabilityError, match="use random or coreset first"):
        build_selector("entropy").select(Pool(pool.features, pool.candidates, pool.labelled, pool.counts), 2)


def test_random_takes_all_alike():
    pool = pool_of(10)
    counts = np.bincount([row for seed in range(300) for row in build_selector("random").select(pool, 3, seed)])
    assert counts.min() > 60 and random.Random(1).sample(range(10), 3) == build_selector("random").select(pool, 3, 1)

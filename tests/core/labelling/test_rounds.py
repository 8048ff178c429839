"""Rounds: one in five at random from what is set apart, copies once, groups apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts.items import Item
from vladapt.core.data.splits import ItemLinks
from vladapt.core.errors import ConfigError
from vladapt.core.labelling.rounds import Known, choose_round, reserve
from vladapt.core.registry import build_selector, catalogue


def known_of(images=50, groups=None, copies=(), labels=None, random=(), classes=3) -> Known:
    groups = groups or [None] * images
    items = [Item(f"{row:03d}", Path("x"), group=group) for row, group in enumerate(groups)]
    together: dict[object, list[int]] = {}
    chain = {row: place for place, rows in enumerate(copies) for row in rows}
    for row, group in enumerate(groups):
        key = group if group is not None else ("copies", chain[row]) if row in chain else row
        together.setdefault(key, []).append(row)
    parts = list(together.values())
    draw = torch.Generator().manual_seed(images)
    features = F.normalize(torch.randn(images, 6, generator=draw), dim=1)
    probabilities = torch.randn(images, classes, generator=draw).softmax(dim=1)
    links = ItemLinks(parts, [], near_parts=parts, near=[list(rows) for rows in copies])
    return Known(items, features, labels or {}, frozenset(random), links, classes, probabilities)


@pytest.mark.parametrize("name", sorted(catalogue.selectors()))
def test_rounds_go_on_until_all_is_labelled_and_nothing_is_asked_twice(name):
    labels, random = {}, set()
    for _ in range(5):
        chosen = choose_round(known_of(labels=dict(labels), random=random), build_selector(name), 10, seed=3)
        assert (len(chosen.chosen), len(chosen.random)) == (8, 2)
        rows = {*chosen.chosen, *chosen.random}
        assert len(rows) == 10 and not rows & labels.keys()
        labels.update({row: (row % 3,) for row in rows})
        random.update(chosen.random)
    assert len(labels) == 50
    with pytest.raises(ConfigError, match="0 images are left to label"):
        choose_round(known_of(labels=labels, random=random), build_selector(name), 1, seed=3)


def test_a_budget_above_the_pool_is_refused():
    with pytest.raises(ConfigError, match=r"--budget 60: 50 images are left to label.*give 1 to 50"):
        choose_round(known_of(), build_selector("random"), 60, seed=1)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(0, 9))
def test_what_tests_shares_no_group_and_no_copy_with_what_teaches(budget, seed):
    groups = [f"patient {row % 25}" if row < 45 else None for row in range(60)]
    copies = [(50, 51, 52), (53, 54)]
    known = known_of(60, groups, copies)
    chosen = choose_round(known, build_selector("margin"), budget, seed=seed, split_seed=seed)
    rows = [*chosen.chosen, *chosen.random]
    assert len(set(rows)) == budget
    tested = {groups[row] for row in chosen.random} - {None}
    assert not tested & {groups[row] for row in chosen.chosen}
    assert all(len(set(rows) & set(chain)) <= 1 for chain in copies)


def test_a_copy_of_a_labelled_image_is_not_asked():
    known = known_of(10, copies=[(0, 1)], labels={0: (1,)})
    chosen = choose_round(known, build_selector("random"), 8, seed=1)
    assert not {0, 1} & {*chosen.chosen, *chosen.random}
    with pytest.raises(ConfigError, match="8 images are left"):
        choose_round(known, build_selector("random"), 9, seed=1)


def test_groups_with_the_fewest_labels_come_first():
    groups = [f"patient {row // 10}" for row in range(100)]
    known = known_of(100, groups, labels={0: (0,), 10: (1,)})
    chosen = choose_round(known, build_selector("entropy"), 8, seed=1)
    of = [groups[row] for row in chosen.chosen]
    assert len(set(of)) == len(of) == 6 and not {"patient 0", "patient 1"} & set(of)


def test_the_images_drawn_at_random_are_a_fair_sample():
    """Over many orders every image is set apart, and drawn, about as often as every other."""
    counts = np.zeros(50)
    known = known_of()
    for split_seed in range(40):
        chosen = choose_round(known, build_selector("random"), 25, seed=1, split_seed=split_seed)
        assert len(reserve(known, split_seed)) == 10
        counts[chosen.random] += 1
    assert counts.sum() == 200 and counts.max() < 14  # 4 each, standard deviation 1.8
    assert counts[:25].sum() == pytest.approx(100, abs=25)


def test_images_drawn_at_random_before_stay_apart_whatever_the_seed():
    known = known_of(labels={7: (0,), 8: (1,)}, random={7})
    for split_seed in range(5):
        apart = reserve(known, split_seed)
        assert 7 in apart and 8 not in apart


def test_a_group_as_large_as_the_pool_leaves_nothing_to_draw_at_random():
    known = known_of(20, ["one"] * 20)
    chosen = choose_round(known, build_selector("random"), 5, seed=1)
    assert not chosen.random and len(chosen.chosen) == 5

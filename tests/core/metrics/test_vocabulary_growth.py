"""Extensibility and stability, on a case worked by hand and against the loops of the paper."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.metrics.vocabulary_growth import divided_classes, growing_orders, vocabulary_growth

LOGITS = torch.tensor([
    [3.0, 2.0, 1.0, 0.0],  # of class 0: right in every vocabulary
    [2.0, 1.0, 3.0, 0.0],  # of class 0: right until class 2 comes
    [1.0, 3.0, 2.0, 4.0],  # of class 1: right until class 3 comes
    [0.0, 5.0, 4.0, 3.0],  # of class 2: wrong once class 1 is there
    [0.0, 1.0, 3.0, 2.0],  # of class 3: wrong beside class 2 only
])  # fmt: skip
LABELS = torch.tensor([0, 0, 1, 2, 3])


def test_a_case_worked_by_hand():
    """Groups {0, 1}, {2}, {3}; one order each for the targets {0, 1} and {3}."""
    found = vocabulary_growth(LOGITS, LABELS, torch.tensor([0, 0, 1, 2]), [(0, 1, 2), (2, 1, 0)])
    # {0, 1}: 3 of 3 right. With 2: image 1 is lost, image 3 (of class 2) wrong: 2 of 4. With 3: 2 and 4 too: 1 of 5.
    first = [3 / 3, 2 / 4, 1 / 5]
    # {3}: 1 of 1. With 2: image 3 is right, image 4 lost: 1 of 2. With 0, 1: image 0 alone: 1 of 5.
    second = [1 / 1, 1 / 2, 1 / 5]
    assert found.extensibility_by_step == [(a + b) / 2 for a, b in zip(first, second)]
    assert abs(found.extensibility - (sum(first) + sum(second)) / 6) < 1e-12
    # Stability of {0, 1}, its classes alike: (1/2 + 1/1) / 2 with 2, (1/2 + 0/1) / 2 with all. Of {3}: 0, 0.
    assert found.stability_by_step == [(0.75 + 0) / 2, (0.25 + 0) / 2]
    assert found.stability == (0.75 + 0.25) / 4
    assert found.closed == 1


def test_it_is_the_papers_loop_over_vocabularies():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 11, generator=generator).round(decimals=1)  # with ties
    labels = torch.randint(0, 11, (60,), generator=generator)
    group = divided_classes(labels, 11, 4, seed=2)
    orders = growing_orders(4, 3, seed=2)
    closed, extensible, stable = [], [], []
    for order in orders:
        target = [c for c in range(11) if group[c] == order[0]]
        for step in range(1, 5):
            vocabulary = [c for c in range(11) if int(group[c]) in order[:step]]
            kept = [i for i in range(60) if int(labels[i]) in vocabulary]
            said = [vocabulary[int(logits[i, vocabulary].argmax())] for i in kept]
            right = [a == int(labels[i]) for a, i in zip(said, kept)]
            extensible.append(sum(right) / len(right))
            if step == 1:
                closed.append(extensible[-1])
                continue
            of_class = [[r for r, i in zip(right, kept) if labels[i] == c] for c in target]
            shares = [sum(of) / len(of) for of in of_class if of]
            stable.append(sum(shares) / len(shares))
    found = vocabulary_growth(logits, labels, group, orders)
    assert abs(found.closed - sum(closed) / len(closed)) < 1e-9
    assert abs(found.extensibility - sum(extensible) / len(extensible)) < 1e-9
    assert abs(found.stability - sum(stable) / len(stable)) < 1e-9
    assert found.stability < found.closed


@settings(max_examples=15)
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 3), st.integers(0, 100))
def test_groups_are_even_and_each_is_shown(classes, groups, absent, seed):
    groups = min(groups, classes)
    labels = torch.arange(classes).repeat(2)
    group = divided_classes(labels, classes + absent, groups, seed)
    sizes = torch.bincount(group, minlength=groups)
    assert len(group) == classes + absent and int(sizes.max() - sizes.min()) <= 1
    assert set(group[labels].tolist()) == set(range(groups))


def test_orders_begin_with_each_target_and_do_not_repeat_where_there_are_few():
    assert growing_orders(2, 3, seed=0) == [(0, 1), (1, 0)]
    assert len(set(growing_orders(3, 3, seed=0))) == 6
    orders = growing_orders(6, 3, seed=0)
    assert [order[0] for order in orders] == [target for target in range(6) for _ in range(3)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert orders == growing_orders(6, 3, seed=0) != growing_orders(6, 3, seed=1)

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts import FeatureSet


def support(counts, groups=None) -> FeatureSet:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return FeatureSet(torch.ones(len(labels), 3), labels, tuple("abcdefgh"[: len(counts)]), groups=groups)


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=8), seed=st.integers(0, 100))
def test_every_image_is_held_once_and_no_class_is_ever_gone(counts, seed):
    whole = support(counts)
    parts = whole.folds(5, seed)
    held = [row for part in parts for row in part.tolist()]
    assert len(held) == len(set(held))
    for part in parts:
        rest = [row for row in range(len(whole)) if row not in part.tolist()]
        assert set(whole.labels[rest].tolist()) == set(range(len(counts)))
    if parts:
        assert set(held) == {row for row in range(len(whole)) if counts[int(whole.labels[row])] > 1}
        for c, count in enumerate(counts):
            shares = [int((whole.labels[part] == c).sum()) for part in parts]
            assert count < 2 or max(shares) - min(shares) <= 1


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=4, max_size=12), seed=st.integers(0, 50))
def test_groups_go_to_one_fold_whole(sizes, seed):
    groups = tuple(f"patient {i}" for i, size in enumerate(sizes) for _ in range(size))
    whole = support([len(groups) // 2, len(groups) - len(groups) // 2], groups)
    for part in whole.folds(4, seed):
        rest = [row for row in range(len(whole)) if row not in part.tolist()]
        assert not {groups[row] for row in part.tolist()} & {groups[row] for row in rest}


def test_there_are_fewer_folds_than_images_of_a_class():
    assert [len(support([k] * 4).folds(5, 0)) for k in (1, 2, 3, 9)] == [0, 2, 3, 5]


def test_several_labels_have_folds_with_positives_outside():
    labels = torch.zeros(24, 3)
    labels[:12, 0] = labels[6:18, 1] = labels[20:, 2] = 1
    whole = FeatureSet(torch.ones(24, 3), labels, ("a", "b", "c"))
    parts = whole.folds(4, 0)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(24))
    for part in parts:
        out = torch.ones(24, dtype=torch.bool)
        out[part] = False
        assert bool((labels[out].sum(dim=0) > 0).all())

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.contracts import FeatureSet
from vladapt.core.contracts.prepared import NoValidation
from vladapt.core.data.sampling import hold_out_support, selection_split


def support(counts, groups=None) -> FeatureSet:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ids = tuple(str(i) for i in range(len(labels)))
    return FeatureSet(torch.randn(len(labels), 3), labels, tuple("abcdefgh"[: len(counts)]), groups=groups, ids=ids)


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 20), min_size=2, max_size=8), seed=st.integers(0, 100))
def test_a_quarter_of_every_class_is_held(counts, seed):
    if not sum(counts):
        return
    whole = support(counts)
    parts = hold_out_support(whole, seed)
    if 2 * sum(c >= 4 for c in counts) < sum(c > 0 for c in counts):
        assert parts is None
        return
    rest, held = parts
    assert torch.bincount(held.labels, minlength=len(counts)).tolist() == [c // 4 for c in counts]
    assert sorted(rest.ids + held.ids, key=int) == list(whole.ids)


def test_fewer_than_four_shots_hold_nothing():
    assert hold_out_support(support([3, 3, 3]), 0) is None


def test_the_seed_decides_and_repeats():
    whole = support([16, 16])
    assert hold_out_support(whole, 1)[1].ids == hold_out_support(whole, 1)[1].ids != hold_out_support(whole, 2)[1].ids


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=4, max_size=12), seed=st.integers(0, 50))
def test_groups_go_to_one_side_whole(sizes, seed):
    groups = tuple(f"patient {i}" for i, size in enumerate(sizes) for _ in range(size))
    whole = support([len(groups)], groups)
    parts = hold_out_support(whole, seed)
    if parts is None:
        assert len(groups) < 4 or min(sizes) > len(groups) // 2
        return
    rest, held = parts
    assert not set(rest.groups) & set(held.groups)
    assert 0 < len(held) <= len(groups) // 2


def test_images_without_a_group_stand_alone():
    rest, held = hold_out_support(support([8], groups=("",) * 8), 0)
    assert (len(rest), len(held)) == (6, 2)


def test_a_class_of_one_group_gives_nothing():
    groups = ("one",) * 8 + tuple(str(i) for i in range(8))
    _, held = hold_out_support(support([8, 8], groups), 0)
    assert held.labels.tolist() == [1, 1]


def test_several_labels_hold_a_quarter_of_the_positives_at_most():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(80, 4, generator=generator) < 0.3).float()
    labels[torch.rand(80, 4, generator=generator) < 0.1] = torch.nan
    _, held = hold_out_support(FeatureSet(torch.randn(80, 3), labels), 0)
    positives, kept = (torch.nan_to_num(t).sum(dim=0) for t in (labels, held.labels))
    assert (kept <= positives // 4).all() and (kept >= 1).all()
    assert (torch.nan_to_num(held.labels).sum(dim=1) == 0).any()  # images without any finding too


class TestSelection:
    def test_val_is_used_where_there_is_one(self):
        whole, val = support([8, 8]), support([2, 2])
        selection = selection_split(whole, val, 0)
        assert selection.train is whole and selection.val is val and not selection.held_out
        assert selection.words == "val (4 images)"

    @pytest.mark.parametrize("val", [None, support([0, 0]), FeatureSet(torch.randn(4, 3))])
    def test_else_the_support_is_split(self, val):
        selection = selection_split(support([8, 8]), val, 0)
        assert selection.held_out and len(selection.train) == 12 and selection.words.startswith("4 images held out")

    def test_nothing_is_held_out_where_nothing_is_to_be_chosen(self):
        whole = support([8, 8])
        selection = selection_split(whole, NoValidation.beside(whole).to("cpu"), 0)
        assert selection.train is whole and selection.val is None and selection.words == "defaults: no validation"

    def test_else_nothing_is_chosen(self):
        whole = support([2, 2])
        selection = selection_split(whole, None, 0)
        assert selection.train is whole and selection.val is None and selection.words.startswith("defaults")

    def test_a_val_that_no_auroc_can_be_had_from_is_none(self):
        labels = (torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        whole = FeatureSet(torch.randn(40, 3), labels)
        only_positive = FeatureSet(torch.randn(3, 3), torch.ones(3, 2))
        assert selection_split(whole, only_positive, 0).held_out

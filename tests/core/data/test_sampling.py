"""Few-shot sampling: K a class, fixed by the seed, stable when an image turns out unreadable."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import DomainData, Item, Label, Labels
from vladapt.core.data.sampling import base_new, class_counts, restrict, sample_shots, short_classes
from vladapt.core.errors import ConfigError

NAN = float("nan")


def labelled(labels):
    return [Item(id=f"{i}.png", source=Path(f"{i}.png"), target=Label(label)) for i, label in enumerate(labels)]


def tagged(rows):
    return [Item(f"{i}.png", Path(f"{i}.png"), target=Labels(tuple(map(float, row)))) for i, row in enumerate(rows)]


def ids(items):
    return [item.id for item in items]


label_lists = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(label_lists, st.integers(1, 8), st.integers(0, 5))
def test_each_class_gives_k_or_all_it_has_grouped_by_class(labels, shots, seed):
    chosen = sample_shots(labelled(labels), shots, seed, num_classes=4)
    counts = Counter(labels)
    assert Counter(item.target.index for item in chosen) == {c: min(shots, n) for c, n in counts.items()}
    assert [item.target.index for item in chosen] == sorted(item.target.index for item in chosen)
    assert len(set(ids(chosen))) == len(chosen)
    assert short_classes(labelled(labels), shots, num_classes=4) == {
        c: counts[c] for c in range(4) if counts[c] < shots
    }


@settings(max_examples=60, deadline=None)
@given(label_lists, st.integers(1, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_order_of_the_files_does_not_matter(labels, shots, seed, shuffler):
    items = labelled(labels)
    shuffled = items[:]
    shuffler.shuffle(shuffled)
    expected = sample_shots(items, shots, seed, num_classes=4)
    assert ids(sample_shots(shuffled, shots, seed, num_classes=4)) == ids(expected)


@settings(max_examples=60, deadline=None)
@given(label_lists, st.integers(1, 8), st.integers(0, 5), st.data())
def test_a_left_out_item_only_pulls_in_the_next_of_its_class(labels, shots, seed, data):
    items = labelled(labels)
    before = sample_shots(items, shots, seed, num_classes=4)
    bad = data.draw(st.sampled_from(before))
    after = sample_shots([item for item in items if item is not bad], shots, seed, num_classes=4)
    new = set(ids(after)) - set(ids(before))
    assert set(ids(before)) - set(ids(after)) == {bad.id}
    assert len(new) == (Counter(labels)[bad.target.index] > shots)
    assert all(item.target.index == bad.target.index for item in after if item.id in new)


def test_seeds_choose_differently():
    items = labelled([0] * 50)
    assert ids(sample_shots(items, 5, 1, num_classes=1)) != ids(sample_shots(items, 5, 2, num_classes=1))


def test_every_item_is_chosen_about_equally_often():
    items = labelled([0] * 20)
    counts = Counter(i for seed in range(400) for i in ids(sample_shots(items, 5, seed, num_classes=1)))
    assert min(counts.values()) > 60 and max(counts.values()) < 145  # expected 100


def test_no_shots_are_no_items():
    assert sample_shots(labelled([0, 1]), 0, 0, num_classes=2) == []


@pytest.mark.parametrize("shots", [-1, 2.5, True, "4"])
def test_shots_that_are_no_whole_number_of_items(shots):
    with pytest.raises(ConfigError, match="--shots"):
        sample_shots(labelled([0, 1]), shots, 0, num_classes=2)


def test_no_limit_takes_all_labelled():
    assert len(sample_shots(labelled([1, 0, None, 1]), None, 0, num_classes=2)) == 3


def test_several_labels_give_k_positives_each_and_count_shared_images():
    generator = random.Random(0)
    rows = [[generator.random() < p for p in (0.5, 0.3, 0.05)] for _ in range(200)]
    chosen = sample_shots(tagged(rows), 4, 0, num_classes=3)
    assert all(count >= 4 for count in class_counts(chosen, 3))
    both = sample_shots(tagged([[1, 1], [1, 1], [1, 0], [0, 1]]), 2, 0, num_classes=2)
    assert all(count >= 2 for count in class_counts(both, 2))


def test_several_labels_begin_with_the_rarest_so_that_few_images_serve():
    chosen = sample_shots(tagged([[1, 0, 0]] * 50 + [[1, 1, 0]] * 4 + [[0, 0, 1]] * 4), 4, 0, num_classes=3)
    assert class_counts(chosen, 3) == [4, 4, 4] and len(chosen) == 8


def test_several_labels_bring_negatives_where_a_label_has_none():
    chosen = sample_shots(tagged([[1]] * 10 + [[0]] * 10), 3, 0, num_classes=1)
    assert Counter(item.target.values[0] for item in chosen) == {1.0: 3, 0.0: 3}


def test_several_labels_unknown_is_neither():
    chosen = sample_shots(tagged([[NAN, NAN], [1, NAN], [NAN, 1], [0, 0]]), 2, 0, num_classes=2)
    assert "0.png" not in ids(chosen) and class_counts(chosen, 2) == [1, 1]


def test_base_is_the_larger_first_half():
    assert base_new(list("abcde")) == ([0, 1, 2], [3, 4])


def test_restrict_relabels_in_the_given_order():
    data = DomainData(labelled([0, 1, 2, 1]), ("a", "b", "c"), load=None)
    smaller = restrict(data, [2, 1])
    assert smaller.class_names == ("c", "b") and data.class_names == ("a", "b", "c")
    assert {item.id: item.target.index for item in smaller.items} == {"1.png": 1, "2.png": 0, "3.png": 1}
    with pytest.raises(ConfigError, match="indices"):
        restrict(data, [0, 3])


def test_restrict_keeps_the_chosen_columns():
    data = DomainData(tagged([[1, 0, NAN], [NAN, 1, NAN]]), ("a", "b", "c"), load=None, kind="multilabel")
    smaller = restrict(data, [2, 0])
    assert ids(smaller.items) == ["0.png"]
    assert smaller.items[0].target.values[1] == 1 and math.isnan(smaller.items[0].target.values[0])

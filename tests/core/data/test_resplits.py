"""Repeated and k-fold splits keep groups and copies together and every class in its shares."""

from __future__ import annotations

from collections import Counter

import pytest

from vladapt import DomainData, Item, Label
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits, fold_split, resplit


@pytest.fixture
def data(tmp_path):
    """60 items of 2 classes, 3 to a patient; items 0 and 30 show the same."""
    items = [
        Item(
            str(n), tmp_path / "rows.npz", {"digest": "copy" if n in (0, 30) else str(n)}, Label(n // 30), f"p{n // 3}"
        )
        for n in range(60)
    ]
    return DomainData(items=items, class_names=("a", "b"), load=None, name="d", kind="labels")


def splits_of(data):
    return [item.split for item in data.items]


@pytest.fixture
def hashes(tmp_path):
    return FileHashes(tmp_path / "cache")


def test_repeated_splits_differ_and_the_first_is_that_of_a_fit(data, hashes):
    first, second, again = (resplit(data, n, seed=5, hashes=hashes) for n in (0, 1, 1))
    assert splits_of(first) == splits_of(assign_splits(data, seed=5, hashes=hashes))
    assert splits_of(second) == splits_of(again) != splits_of(first)
    assert splits_of(resplit(first, 1, seed=5, hashes=hashes)) == splits_of(second)  # earlier splits do not matter


@pytest.mark.parametrize("made", [resplit, lambda *a, **k: fold_split(a[0], a[1], 5, **k)], ids=["splits", "folds"])
def test_no_patient_and_no_copy_stands_on_two_sides(data, hashes, made):
    for number in range(5):
        split = made(data, number, seed=0, hashes=hashes)
        by_group = {}
        for item in split.items:
            by_group.setdefault(item.group, set()).add(item.split)
        assert all(len(sides) == 1 for sides in by_group.values())
        of = {item.id: item.split for item in split.items}
        assert of["0"] == of["30"] and set(of.values()) == {"train", "val", "test"}


def test_folds_share_out_the_images_of_every_class(data, hashes):
    folds = [fold_split(data, n, 5, seed=0, hashes=hashes) for n in range(5)]
    tested = [item.id for fold in folds for item in fold.split("test")]
    assert sorted(tested) == sorted(item.id for item in data.items)
    for fold in folds:
        counts = Counter(item.class_label() for item in fold.split("test"))
        assert all(3 <= counts[label] <= 9 for label in (0, 1))

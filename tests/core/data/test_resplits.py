"""Repeated and k-fold splits keep groups and copies together and every class in its shares."""

from __future__ import annotations

from collections import Counter

import pytest

from vladapt import DomainData, Item, Label
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits, fold_split, resplit
from vladapt.core.errors import DataError


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


# What nobody has reviewed


def _unreviewed(data, numbers):
    return data.with_items([item.with_(unreviewed=n in numbers) for n, item in enumerate(data.items)])


@pytest.mark.parametrize("made", [resplit, lambda *a, **k: fold_split(a[0], a[1], 5, **k)], ids=["splits", "folds"])
def test_what_nobody_has_reviewed_trains_with_its_patient_and_is_told(data, hashes, made):
    marked = _unreviewed(data, {4, 30, *range(45, 60)})
    split = made(marked, 1, seed=0, hashes=hashes)
    of = {item.id: item.split for item in split.items}
    assert {of[str(n)] for n in (3, 4, 5, 0, 1, 2, 30, 31, *range(45, 60))} == {"train"}
    assert set(of.values()) == {"train", "val", "test"}
    assert split.notes.count("Images with labels that a model made and nobody has reviewed, in train alone: 17.") == 1


def test_given_splits_give_up_what_nobody_has_reviewed(data, hashes):
    sides = ("train", "val", "test")
    items = [item.with_(split=sides[n // 3 % 3], decode={"digest": str(n)}) for n, item in enumerate(data.items)]
    split = assign_splits(_unreviewed(data.with_items(items), range(12)), seed=0, hashes=hashes)
    of = {item.id: item.split for item in split.items}
    assert {of[str(n)] for n in range(12)} == {"train"}
    assert all(of[str(n)] == sides[n // 3 % 3] for n in range(12, 60))


def test_val_is_not_taken_from_what_nobody_has_reviewed(data, hashes):
    items = [
        item.with_(split="test" if n % 30 < 9 else "train", decode={"digest": str(n)})
        for n, item in enumerate(data.items)
    ]
    split = assign_splits(_unreviewed(data.with_items(items), range(9, 27)), seed=0, hashes=hashes)
    val = [item for item in split.items if item.split == "val"]
    assert val and not any(item.unreviewed for item in val)


def test_where_all_is_unreviewed_nothing_can_be_tested(data, hashes):
    with pytest.raises(DataError, match="a model made the labels of 60 images and nobody has reviewed them"):
        assign_splits(_unreviewed(data, range(60)), seed=0, hashes=hashes)


def test_a_declared_test_split_that_nobody_reviewed_is_not_made_anew(data, hashes):
    declared = [item.with_(split="test" if n < 12 else "train") for n, item in enumerate(data.items)]
    with pytest.raises(DataError, match="nobody has reviewed them"):
        assign_splits(_unreviewed(data.with_items(declared), range(12)), seed=0, hashes=hashes)
    declared[12:24] = [item.with_(split="val") for item in declared[12:24]]
    with pytest.raises(DataError, match="nobody has reviewed them"):
        assign_splits(_unreviewed(data.with_items(declared), range(12)), seed=0, hashes=hashes)

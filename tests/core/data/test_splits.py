"""Splits: nothing straddles, every class that can be is tested, given splits stay, the seed fixes all."""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import DomainData, Item, Label, Labels
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.splits import assign_splits
from vladapt.core.errors import DataError

NAN = float("nan")
NAMES = ("a", "b", "c", "d")


def item(number, label=None, group=None, content=None, split="", labels=None, **decode):
    digest = f"content-{number if content is None else content}"
    decode = {"digest": digest, **decode}
    target = Labels(labels) if labels is not None else None if label is None else Label(label)
    return Item(f"{number:04}", Path("array"), decode, target, group, split)


def made(items, seed=0, kind="labels", cache="unused"):
    data = DomainData(list(items), NAMES, load=None, kind=kind, name="set")
    return assign_splits(data, seed=seed, hashes=FileHashes(cache))


def splits_of(data):
    return {item.id: item.split for item in data.items}


def assert_nothing_straddles(data):
    for key in (lambda i: i.group, lambda i: i.decode["digest"]):
        sides = defaultdict(set)
        for one in data.items:
            if key(one) is not None:
                sides[key(one)].add(one.split)
        assert all(len(side) == 1 for side in sides.values())


rows = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.none(), st.integers(0, 8).map("p{}".format)),
        st.one_of(st.none(), st.integers(0, 12)),
    ),
    min_size=1,
    max_size=40,
)


def parts_of(items):
    """Connected components, the slow and plain way."""
    parts = [{i} for i in range(len(items))]
    for i, one in enumerate(items):
        for j, two in enumerate(items[:i]):
            same_group = one.group is not None and one.group == two.group
            if same_group or one.decode["digest"] == two.decode["digest"]:
                mine, its = (next(p for p in parts if k in p) for k in (i, j))
                if mine is not its:
                    mine |= its
                    parts.remove(its)
    return parts


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(0, 3))
def test_no_group_or_copy_straddles_and_every_divisible_class_is_tested(rows, seed):
    items = [item(n, label, group, content=content) for n, (label, group, content) in enumerate(rows)]
    parts_of_class = defaultdict(int)
    for part in parts_of(items):
        for label in {items[i].target.index for i in part}:
            parts_of_class[label] += 1
    if max(parts_of_class.values()) < 2:
        with pytest.raises(DataError, match="nothing can be tested"):
            made(items, seed)
        return
    data = made(items, seed)
    assert_nothing_straddles(data)
    assert [i.id for i in data.items] == [i.id for i in items]
    assert {i.split for i in data.items} <= {"train", "val", "test"}
    tested = {i.target.index for i in data.items if i.split == "test"}
    assert {label for label, count in parts_of_class.items() if count > 1} <= tested


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=2, max_size=4).filter(lambda counts: max(counts) > 1), st.integers(0, 3))
def test_without_groups_each_class_is_shared_out_exactly(counts, seed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    data = made([item(n, label) for n, label in enumerate(labels)], seed)
    for label, total in enumerate(counts):
        got = Counter(i.split for i in data.items if i.target.index == label)
        test = max(1, math.floor(0.3 * total + 0.5)) if total > 1 else 0
        val = math.floor(0.2 * total + 0.5) if total > 1 else 0
        assert (got["train"], got["val"], got["test"]) == (total - val - test, val, test)


@settings(max_examples=40, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_seed_and_ids_decide_not_the_order_of_the_files(rows, shuffler):
    items = [item(n, label, group) for n, (label, group, _) in enumerate(rows)] + [item(90, 0), item(91, 0)]
    shuffled = items[:]
    shuffler.shuffle(shuffled)
    assert splits_of(made(items, 1)) == splits_of(made(shuffled, 1))


def test_seeds_split_differently():
    items = [item(n, n % 2) for n in range(60)]
    assert splits_of(made(items, 1)) != splits_of(made(items, 2))


def test_large_groups_still_give_about_the_wanted_shares():
    generator = random.Random(0)
    items, number = [], 0
    for patient in range(80):
        for _ in range(generator.randint(1, 9)):
            items.append(item(number, generator.choice([0, 0, 0, 1]), f"p{patient}"))
            number += 1
    data = made(items)
    assert_nothing_straddles(data)
    for label in (0, 1):
        got = Counter(i.split for i in data.items if i.target.index == label)
        total = sum(got.values())
        assert abs(got["test"] / total - 0.3) < 0.06 and abs(got["val"] / total - 0.2) < 0.06


def test_a_class_with_one_image_trains_and_is_named():
    data = made([item(0, 0), *(item(n, 1) for n in range(1, 9))])
    assert splits_of(data)["0000"] == "train"
    assert "Classes trained but not tested, for lack of test images: a." in data.notes


def test_a_patient_who_alone_has_a_class_trains():
    rare = [item(0, 0, "p0"), item(1, 1, "p0")]
    data = made([*rare, *(item(n, 1, f"p{n}") for n in range(2, 20))])
    assert splits_of(data)["0000"] == splits_of(data)["0001"] == "train"


def test_one_group_holds_all():
    with pytest.raises(DataError, match="nothing can be tested"):
        made([item(n, n % 2, "p") for n in range(10)])


def test_parts_of_one_file_stay_together():
    items = [item(n, n % 2, content=n // 4, box=[n, 0, n + 9, 9]) for n in range(48)]
    assert_nothing_straddles(made(items))


def test_copies_are_told_from_the_bytes(tmp_path):
    items = []
    for n in range(40):
        path = tmp_path / f"{n}.png"
        path.write_bytes(b"pixels %02d" % (n // 2))
        items.append(Item(path.name, path, target=Label(n // 2 % 2)))
    data = made(items, cache=tmp_path / "cache")
    sides = splits_of(data)
    assert all(sides[f"{n}.png"] == sides[f"{n + 1}.png"] for n in range(0, 40, 2))
    assert "Exact copies of other images: 20; copies are never in two splits." in data.notes


def test_files_of_a_size_of_their_own_are_not_read(tmp_path):
    items = []
    for n in range(6):
        (tmp_path / f"{n}.png").write_bytes(b"x" * (n + 1))
        items.append(Item(f"{n}.png", tmp_path / f"{n}.png", target=Label(n % 2)))
    items.append(Item("gone.png", tmp_path / "gone.png", target=Label(0)))
    data = made(items, cache=tmp_path / "cache")
    assert len(data.items) == 7 and not (tmp_path / "cache").exists()


def test_copies_with_different_labels_are_named():
    data = made([item(0, 0, content="same"), item(1, 1, content="same"), *(item(n, n % 2) for n in range(2, 12))])
    assert any("a copy of another label" in note and "0000, 0001" in note for note in data.notes)


def test_given_splits_are_kept():
    items = [item(n, n % 2, split=("train", "val", "test")[n % 3]) for n in range(30)]
    data = made(items)
    assert splits_of(data) == {i.id: i.split for i in items} and data.notes == []


def test_train_gives_a_val_that_is_missing_by_groups():
    train = [item(n, n % 2, f"p{n // 3}", split="train") for n in range(60)]
    test = [item(n, n % 2, split="test") for n in range(60, 70)]
    data = made([*train, *test])
    assert_nothing_straddles(data)
    assert {i.id for i in data.split("test")} == {i.id for i in test}
    assert 8 <= len(data.split("val")) <= 16


def test_val_becomes_the_test_set_where_none_is_given():
    items = [item(n, n % 2, split="val" if n < 10 else "train") for n in range(40)]
    data = made(items)
    assert {i.id for i in data.split("test")} == {i.id for i in items[:10]} and len(data.split("val")) == 6
    assert any("val is the test set" in note for note in data.notes)


def test_val_trains_where_no_train_is_given():
    data = made([item(n, n % 2, split="val" if n < 20 else "test") for n in range(40)])
    assert Counter(i.split for i in data.items) == {"train": 16, "val": 4, "test": 20}


def test_a_single_given_split_is_made_anew_and_said():
    data = made([item(n, n % 2, split="train") for n in range(20)])
    assert len(data.split("test")) == 6 and any("no split but train" in note for note in data.notes)


def test_items_without_a_split_train_beside_given_ones():
    data = made([item(n, n % 2, split="test" if n < 10 else "") for n in range(30)] + [item(99, 0, split="val")])
    assert Counter(i.split for i in data.items) == {"test": 10, "train": 20, "val": 1}
    assert "Images without a split, used for training: 20." in data.notes


def test_given_splits_that_straddle_lose_train_images_never_test_images():
    fixed = [item(n, n % 2, split=split) for n, split in enumerate(["train"] * 10 + ["val"] * 4 + ["test"] * 6)]
    copy_in_train = item(20, 0, content=19, split="train")
    patient = [item(21, 0, "p", split="train"), item(22, 0, "p", split="val"), item(23, 1, "p", split="test")]
    both = [item(24, 0, "q", split="train"), item(25, 1, "q", split="val")]
    data = made([*fixed, copy_in_train, *patient, *both])
    assert_nothing_straddles(data)
    assert set(splits_of(data)) == {i.id for i in (*fixed, patient[2], *both)}
    assert {i.id for i in data.split("test")} == {i.id for i in (*fixed[14:], patient[2])}
    assert splits_of(data)["0025"] == "train"
    assert any(note.startswith("Left out") and note.endswith(": 3.") for note in data.notes)
    assert any(note.startswith("Moved from val to train") and note.endswith(": 1.") for note in data.notes)


def test_val_that_repeats_the_test_set_is_replaced():
    train = [item(n, n % 2, split="train") for n in range(20)]
    held = [item(n, n % 2, content=n % 10, split="val" if n < 210 else "test") for n in range(200, 220)]
    data = made([*(i.with_(decode={"digest": f"t{i.id}"}) for i in train), *held])
    assert Counter(i.split for i in data.items) == {"train": 16, "val": 4, "test": 10}


def test_all_train_images_copied_from_test():
    with pytest.raises(DataError, match="every train image"):
        made([item(n, n % 2, content=n % 4, split="train" if n < 4 else "test") for n in range(8)])


def test_items_are_not_changed_in_place():
    items = [item(n, n % 2) for n in range(10)]
    data = DomainData(items, NAMES, load=None)
    assign_splits(data, seed=0, hashes=FileHashes(Path("unused")))
    assert data.notes == [] and all(i.split == "" for i in data.items)


def test_several_labels_are_tested_each_and_in_proportion():
    generator = random.Random(0)
    items = [
        item(n, labels=tuple(float(generator.random() < p) for p in (0.5, 0.2, 0.02, 0.01)), group=f"p{n // 2}")
        for n in range(400)
    ]
    items[0] = items[0].with_(target=Labels((NAN, 1.0, NAN, 0.0)))
    data = made(items, kind="multilabel")
    assert_nothing_straddles(data)
    for label in range(4):
        total = sum(i.target.values[label] == 1 for i in items)
        test = sum(i.target.values[label] == 1 for i in data.split("test"))
        assert test >= 1 and abs(test - 0.3 * total) <= max(1.5, 0.1 * total)
    assert abs(len(data.split("test")) - 120) <= 12 and abs(len(data.split("val")) - 80) <= 12


def test_parts_of_a_file_that_stand_apart_are_divided_by_their_groups_alone():
    """Windows of a raster: the blocks that they lie in stay whole."""
    windows = [
        Item(f"w{n}", Path("raster.tif"), {"digest": "one", "window": n}, Label(n % 2), f"block {n // 4}", apart=True)
        for n in range(40)
    ]
    data = made(windows)
    sides = defaultdict(set)
    for each in data.items:
        sides[each.group].add(each.split)
    assert {"train", "test"} <= {each.split for each in data.items} and all(len(one) == 1 for one in sides.values())
    with pytest.raises(DataError, match="nothing can be tested"):
        made([each.with_(apart=False) for each in windows])

"""Targets: what core asks of each type, classes renumbered, and a type of a third party that core does not know."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vladapt import (
    Boxes,
    CapabilityError,
    Captions,
    DomainData,
    FeatureStore,
    Identity,
    Item,
    Label,
    Labels,
    Mask,
    Target,
    load_backbone,
)
from vladapt.core.contracts.items import check_items
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.sampling import class_counts, restrict, sample_shots
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.verify import content_key

NAN = float("nan")
CLASSES = 5
BOX = (0.0, 0.0, 4.0, 4.0)

one_class = st.integers(0, CLASSES - 1)
several = st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=CLASSES, max_size=CLASSES).map(tuple)
drawn = st.lists(one_class, max_size=6).map(tuple)
targets = st.one_of(
    st.builds(Label, one_class),
    st.builds(Labels, several),
    st.builds(Captions, st.just(("a text",)), st.one_of(st.none(), one_class, several)),
    st.builds(Identity, st.just("p1"), st.one_of(st.none(), one_class)),
    drawn.map(lambda labels: Boxes((BOX,) * len(labels), labels, ignored=(False,) * len(labels))),
    st.builds(lambda labels: Mask(Path("m.png"), labels=labels), several),
)
chosen_classes = st.lists(one_class, min_size=1, unique=True).map(lambda old: {c: place for place, c in enumerate(old)})


@pytest.mark.parametrize(
    ("target", "label", "classes"),
    [
        (Label(2), 2, (2,)),
        (Labels((1.0, NAN, 0.0, 1.0)), (1.0, NAN, 0.0, 1.0), (0, 3)),
        (Captions(("a dog",)), None, ()),
        (Captions(("a dog",), 1), 1, (1,)),
        (Captions(("a dog",), (0.0, 1.0)), (0.0, 1.0), (1,)),
        (Identity("p7"), None, ()),
        (Identity("p7", 3), 3, (3,)),
        (Boxes((BOX, BOX, BOX), (2, 0, 2)), None, (0, 2)),
        (Mask(labels=(0.0, 1.0)), (0.0, 1.0), (1,)),
        (Mask(Path("m.png")), None, ()),
        (Target(), None, ()),
    ],
)
def test_an_item_tells_what_its_target_tells(target, label, classes):
    item = Item("a", Path("a.png"), target=target)
    assert (repr(item.class_label()), item.classes()) == (repr(label), classes)
    assert item.captions() == (("a dog",) if isinstance(target, Captions) else ())


def test_an_item_without_a_target_names_no_class_and_has_no_caption():
    item = Item("a", Path("a.png"))
    assert (item.class_label(), item.classes(), item.captions(), item.restricted({0: 0})) == (None, (), (), None)


@given(targets, chosen_classes)
def test_a_restricted_target_shows_the_chosen_classes_under_their_new_numbers(target, new):
    kept = target.restricted(new)
    shown = {new[old] for old in target.classes() if old in new}
    assert set(() if kept is None else kept.classes()) == shown
    if kept is not None:
        assert type(kept) is type(target) and kept.captions() == target.captions()
        assert isinstance(kept.class_label(), tuple) == isinstance(target.class_label(), tuple)
        if isinstance(kept.class_label(), tuple):
            wanted = [target.class_label()[old] for old in new]  # in the order of the new numbers
            assert repr(kept.class_label()) == repr(tuple(wanted))


@given(targets)
def test_all_classes_in_their_order_change_nothing_that_is_known(target):
    kept = target.restricted({index: index for index in range(CLASSES)})
    unknown = target.class_label() is None or repr(target.class_label()) == repr((NAN,) * CLASSES)
    if not unknown or isinstance(target, (Boxes, Mask)):
        assert repr(kept) == repr(target)
    else:
        assert kept is None


def test_facts_and_masks_follow_the_renumbering():
    new = {3: 0, 1: 1}
    boxes = Boxes((BOX, BOX), (3, 0), segments=(None, [[0, 0, 1, 1, 0, 1]]), facts={"absent": [1, 2], "height": 9})
    assert boxes.restricted(new) == Boxes((BOX,), (0,), segments=(None,), facts={"absent": [1], "height": 9})
    mask = Mask(outlines=Boxes((BOX,), (3,)), labels=(0.0, 1.0, 1.0, 0.0), only=(3, 2))
    assert mask.restricted(new) == replace(mask, labels=(0.0, 1.0), only=(0,))


def test_copies_are_contradictory_where_their_labels_differ_alone():
    def noted(first, second):
        rows = [Item(f"{n}", Path("x"), {"digest": f"{n}"}, Label(n % 2)) for n in range(8)]
        twins = [Item(name, Path("x"), {"digest": "same"}, target) for name, target in (("a", first), ("b", second))]
        data = DomainData([*rows, *twins], ("a", "b"), load=None)
        return "copy of another label" in " ".join(assign_splits(data, seed=0, hashes=FileHashes(Path("no"))).notes)

    assert noted(Label(0), Label(1)) and not noted(Label(0), Captions(("other words",), 0))


@dataclass(frozen=True)
class Keypoints(Target):
    """A type that core does not know: joints of a body."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Pose(Keypoints):
    """Joints of a body in one of several poses."""

    pose: int = 0

    def class_label(self):
        return self.pose


def bodies(make, count=24):
    items = []
    for number in range(count):
        digest = hashlib.sha256(f"body {number}".encode()).hexdigest()
        decode, points = {"digest": digest, "row": number}, ((float(number), 1.0), (2.0, 3.0))
        items.append(Item(f"{number:02}", Path("array"), decode, make(points, number), group=f"person {number // 2}"))
    names = ("sits", "stands", "runs")
    return DomainData(
        items, names, load=lambda item: np.full((8, 8, 3), item.decode["row"], np.uint8), kind="keypoints"
    )


@pytest.mark.parametrize("make", [lambda points, number: Keypoints(points), lambda points, n: Pose(points, n // 2 % 3)])
def test_a_target_of_a_third_party_is_split_drawn_encoded_and_stored_untouched(make, tmp_path):
    data = check_items(bodies(make), "bodies")
    given_targets = {item.id: item.target for item in data.items}
    classified = isinstance(data.items[0].target, Pose)
    data = assign_splits(data, seed=0, hashes=FileHashes(tmp_path))
    assert {item.split for item in data.items} == {"train", "val", "test"}
    sides = {(item.group, item.split) for item in data.items}
    assert len(sides) == 12  # a person is on one side
    train = data.split("train")
    shots = sample_shots(train, 1, 0, num_classes=3)
    assert [item.target.pose for item in shots] == [0, 1, 2] if classified else shots == []
    assert sum(class_counts(train, 3)) == (len(train) if classified else 0)

    backbone = load_backbone("embedded", device="cpu")
    store = FeatureStore(tmp_path / "store")
    transform = backbone.preprocess(False)
    first = store.get_or_compute(data, data.items, backbone, transform)
    again = store.get_or_compute(data, data.items, backbone, transform)
    assert (first.computed, again.cached) == (24, 24) and torch.equal(first.features.features, again.features.features)
    wanted = [item.target.pose for item in data.items] if classified else None
    assert (first.features.labels if wanted is None else first.features.labels.tolist()) == wanted
    assert {item.id: item.target for item in first.items} == given_targets


def test_a_type_that_names_classes_and_cannot_renumber_them_is_told():
    bare = bodies(lambda points, number: Keypoints(points))
    assert [item.target for item in restrict(bare, [2, 0]).items] == [item.target for item in bare.items]
    posed = bodies(lambda points, number: Pose(points, number % 3))
    with pytest.raises(CapabilityError, match=r"targets of type Pose do not say .*; fit all classes, or define Pose\."):
        restrict(posed, [2, 0])


def test_what_a_sample_shows_is_keyed_by_its_pixels_and_not_by_its_target():
    item = Item("a", Path("x"), {"digest": "d", "row": 3}, Label(1))
    keys = {
        content_key(item.with_(target=target), FileHashes(Path("no")))
        for target in (None, Label(2), Boxes((BOX,), (1,)))
    }
    assert keys == {hashlib.sha256(b'd\n{"row":3}').hexdigest()}

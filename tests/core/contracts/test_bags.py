"""Samples whose parts are read one sample at a time: what methods see of them is what they see of parts in memory."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.bags import Bags, HeldBag, mean_of_rows
from vladapt.core.contracts.features import Batch, mean_of_parts
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.features.batches import Extras, batches, logits_of
from vladapt.core.registry import adapter_class

WIDTH = 12
TEXTS = TextClassifier(torch.eye(2, WIDTH), class_names=("no", "yes"))


@dataclass
class CountedBag:
    """A bag that is made when it is read, and counts how many are held at a time."""

    held: ClassVar[set[int]] = set()
    reads: ClassVar[list[int]] = []
    most: ClassVar[int] = 0

    number: int
    rows: np.ndarray
    attributes: dict = field(default_factory=dict)

    counts = property(lambda self: (len(self.rows),))
    dim = property(lambda self: self.rows.shape[1])

    def read(self, scale):
        cls, rows = type(self), self.rows.copy()  # the tensor holds it, and frees it
        cls.held.add(id(rows))
        cls.reads.append(self.number)
        cls.most = max(cls.most, len(cls.held))
        weakref.finalize(rows, cls.held.discard, id(rows))
        return torch.from_numpy(rows)

    def coords(self, scale):
        return torch.arange(2 * len(self.rows)).view(-1, 2)


def drawn(count: int, seed: int) -> tuple[FeatureSet, FeatureSet]:
    """The same bags of 1 to 9 parts, padded in memory, and read one at a time."""
    rng = np.random.default_rng(seed)
    bags = [rng.normal(size=(rng.integers(1, 10), WIDTH)).astype(np.float32) for _ in range(count)]
    padded, mask = np.zeros((count, 9, WIDTH), np.float32), np.zeros((count, 9), bool)
    for row, bag in enumerate(bags):
        padded[row, : len(bag)], mask[row, : len(bag)] = bag, True
    how = {"labels": np.arange(count) % 2, "class_names": ("no", "yes"), "ids": tuple(map(str, range(count)))}
    held = FeatureSet.of_parts(torch.from_numpy(padded), torch.from_numpy(mask), **how)
    return held, FeatureSet.of_bags(Bags([CountedBag(n, bag) for n, bag in enumerate(bags)]), **how)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linear-probe", {"C": 1.0}),
        ("top-k", {"k": 2}),
        ("abmil", {"epochs": 2, "embed": 8, "hidden": 4}),
        ("clam", {"epochs": 2, "instances": 2}),
        ("trans-mil", {"epochs": 1, "width": 16, "most_parts": 4}),
        ("vila-mil", {"epochs": 2, "prototypes": 3, "hidden": 4}),
    ],
)
def test_a_method_gives_the_same_to_the_bit_of_bags_that_are_read_and_holds_one_at_a_time(name, options):
    held, read = drawn(8, 0)
    test_held, test_read = drawn(6, 1)
    CountedBag.most = 0
    of_held, of_read = build_adapter(name, **options), build_adapter(name, **options)
    of_held.fit(held, TEXTS, val=test_held, seed=3)
    of_read.fit(read, TEXTS, val=test_read, seed=3)
    logits = of_held.logits(test_held)
    assert torch.equal(of_read.logits(test_read), logits)
    rows = batches(of_read, test_read, Extras([]))
    assert torch.equal(logits_of(of_read, rows, 6), logits)
    assert CountedBag.most <= (0 if name == "linear-probe" else 2)  # the last, and the next as it is read


def test_the_options_of_a_draw_change_what_is_read_of_a_bag():
    held, _ = drawn(8, 0)
    logits = []
    for most in (None, 2):
        adapter = build_adapter("abmil", epochs=1, embed=8, hidden=4, most_parts=most)
        adapter.fit(held, TEXTS, seed=0)
        logits.append(adapter.logits(held))
    assert not torch.allclose(*logits)


@given(arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(-9, 9, width=32)))
@settings(max_examples=50, deadline=None)
def test_the_mean_of_a_bag_is_that_of_padded_parts_to_the_bit(rows):
    parts = torch.from_numpy(rows)
    padded = torch.cat([parts, torch.zeros(2, parts.shape[1])])[None]
    mask = torch.arange(len(parts) + 2)[None] < len(parts)
    assert torch.equal(mean_of_rows(parts), mean_of_parts(padded, mask)[0])


def test_rows_are_chosen_and_moved_and_nothing_is_read():
    _, read = drawn(5, 2)
    CountedBag.reads.clear()
    some = read.select(torch.tensor([True, False, False, True, False])).to("cpu")
    assert len(some.bags) == 2 and some.bags.counts == (read.bags.counts[0], read.bags.counts[3])
    assert some.without_parts().stored_bags is None and not some.without_parts().has_parts
    assert some.with_parts() is some and some.one_view() is some and "2 bags of" in repr(some)
    assert len(read.select([]).bags) == 0
    assert Batch.of(some).bags is some.stored_bags and not CountedBag.reads
    assert torch.equal(some.bags[1], read.bags[3]) and CountedBag.reads == [3, 3]
    assert some.bags.coords(0).shape == (some.bags.counts[0], 2)


def test_a_bag_has_as_many_scales_as_all_others():
    class TwoScales(HeldBag):
        counts = property(lambda self: (len(self.rows), 1))

        def read(self, scale):
            return self.rows if scale == 0 else self.rows[:1]

    two = Bags([TwoScales(torch.randn(4, 3)), TwoScales(torch.randn(2, 3))])
    assert two.scales == 2 and two.counts == (4, 2) and two.of_scale(1).counts == (1, 1)
    assert two.of_scale(1).select([1])[0].shape == (1, 3)
    with pytest.raises(DataError, match="differ in number of scales"):
        Bags([TwoScales(torch.randn(4, 3)), HeldBag(torch.randn(4, 3))])
    with pytest.raises(DataError, match=r"differ in width \(3, 4\); encode them alike"):
        Bags([HeldBag(torch.randn(4, 3)), HeldBag(torch.randn(4, 4))])


def test_a_method_that_needs_all_parts_at_once_names_one_that_reads_bags():
    _, read = drawn(4, 0)
    needs_all = build_adapter("temporal-tip")
    with pytest.raises(CapabilityError, match="reads bags, such as abmil"):
        needs_all.check_parts(read)
    assert adapter_class("abmil").reads_bags and "parts" not in adapter_class("linear-probe").needs


def test_what_does_not_fit_is_said():
    held, read = drawn(4, 0)
    with pytest.raises(DataError, match="stored_bags has 4 rows for 3"):
        FeatureSet(torch.zeros(3, WIDTH), stored_bags=read.bags)
    with pytest.raises(DataError, match="12 wide for features 5 wide"):
        FeatureSet(torch.zeros(4, 5), stored_bags=read.bags)
    with pytest.raises(DataError, match="beside parts"):
        FeatureSet(held.features, parts=held.parts, parts_mask=held.parts_mask, stored_bags=read.bags)
    adapter = build_adapter("abmil", epochs=1)
    adapter.fit(read, TEXTS)
    with pytest.raises(CapabilityError, match="width 12, these have 3"):
        adapter.logits(Batch(stored_bags=Bags([HeldBag(torch.randn(4, 3))])))

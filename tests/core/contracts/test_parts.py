"""Sets and batches whose samples have parts: the mean of those that are there, and who may see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.contracts import Adapter, Batch, FeatureSet, FitReport, TextClassifier
from vladapt.core.errors import CapabilityError, DataError

D = 3


@st.composite
def sets_with_parts(draw):
    """Up to five samples of up to four parts, at least one of each there, with junk where there is none."""
    count, most = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=most, max_size=most).filter(any)
    mask = torch.tensor(draw(st.lists(row, min_size=count, max_size=count)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parts = torch.randn(count, most, D, generator=generator)
    junk = torch.full_like(parts, draw(st.sampled_from([7.0, float("nan"), float("inf")])))
    return torch.where(mask[..., None], parts, junk), mask


@given(sets_with_parts())
def test_features_are_the_mean_of_the_parts_that_are_there(made):
    parts, mask = made
    found = FeatureSet.of_parts(parts, mask)
    for i in range(len(parts)):
        torch.testing.assert_close(found.features[i], parts[i][mask[i]].double().mean(dim=0).float())
    assert found.parts[~mask].eq(0).all() and torch.equal(found.parts[mask], parts[mask])
    assert found.unit_parts[~mask].eq(0).all()
    torch.testing.assert_close(found.unit_parts[mask].norm(dim=-1), torch.ones(int(mask.sum())))


@given(sets_with_parts(), st.data())
def test_selected_rows_keep_their_parts(made, data):
    parts, mask = made
    found = FeatureSet.of_parts(parts, mask, ids=tuple(map(str, range(len(parts)))))
    index = data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=6))
    picked = found.select(index)
    assert picked.ids == tuple(map(str, index)) and picked.parts_mask.dtype == torch.bool
    assert torch.equal(picked.parts, found.parts[index]) and torch.equal(picked.parts_mask, mask[index])
    assert torch.equal(picked.features, found.features[index])


@given(sets_with_parts(), st.integers(1, 3))
def test_padding_changes_nothing(made, more):
    parts, mask = made
    longer = torch.nn.functional.pad(parts, (0, 0, 0, more), value=float("nan"))
    padded = FeatureSet.of_parts(longer, torch.nn.functional.pad(mask, (0, more)))
    plain = FeatureSet.of_parts(parts, mask)
    assert torch.equal(padded.features, plain.features)
    assert torch.equal(padded.parts[:, : parts.shape[1]], plain.parts) and padded.parts[:, parts.shape[1] :].eq(0).all()


def test_parts_go_with_the_set_and_can_be_let_go():
    found = FeatureSet.of_parts(torch.randn(2, 4, D), labels=torch.tensor([0, 1]))
    assert found.parts_mask.all(), "without a mask all are there"
    moved = found.to("cpu").without_labels()
    assert moved.labels is None and torch.equal(moved.parts, found.parts)
    assert replace(found, backbone="abc").parts is not None
    alone = found.without_parts()
    assert alone.parts is None and alone.parts_mask is None and torch.equal(alone.features, found.features)
    assert alone.without_parts() is alone


def test_an_image_is_the_only_part_of_its_sample():
    images = FeatureSet(torch.randn(3, D))
    assert images.unit_parts is None
    found = images.with_parts()
    assert torch.equal(found.parts[:, 0], images.features) and found.parts_mask.shape == (3, 1)
    assert found.with_parts() is found


@pytest.mark.parametrize(
    ("parts", "mask", "said"),
    [
        (torch.zeros(2, D), None, r"parts have shape \(2, 3\); \(N, T, D\) with N = 2, D = 3"),
        (torch.zeros(3, 4, D), None, r"shape \(3, 4, 3\)"),
        (torch.zeros(2, 4, 5), None, r"shape \(2, 4, 5\)"),
        (torch.zeros(2, 4, D), torch.ones(2, 3), r"parts_mask has shape \(2, 3\); \(N, T\) = \(2, 4\)"),
        (torch.zeros(2, 2, D), torch.tensor([[True, False], [False, False]]), "row 1 has no part"),
        (torch.full((2, 2, D), torch.nan), None, "parts hold NaN or infinity"),
        (torch.ones(2, 2, D), None, "not the mean of the parts; build the set with FeatureSet.of_parts"),
        (None, torch.ones(2, 2), "parts_mask without parts"),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, mask, said):
    with pytest.raises(DataError, match=said):
        FeatureSet(torch.zeros(2, D), parts=parts, parts_mask=mask)


def test_a_set_without_rows_may_have_parts():
    assert len(FeatureSet.of_parts(torch.zeros(0, 4, D))) == 0


@dataclass(eq=False, kw_only=True)
class LastPart(Adapter):
    """Scores the last part that is there, and remembers what it was shown."""

    name = "last-part"
    needs: ClassVar = frozenset({"parts"})
    at_predict: ClassVar = frozenset({"parts"})
    state: ClassVar = ("weights_",)

    def _fit(self, support, classifier, *, val, unlabeled, **_):
        self.shown = support, val, unlabeled
        self.weights_ = classifier.weights
        return FitReport(self.name)

    def _logits(self, batch):
        last = batch.parts_mask.shape[1] - 1 - batch.parts_mask.flip(1).int().argmax(dim=1)
        return batch.unit_parts[torch.arange(len(last)), last] @ self.weights_.T


class Plain(LastPart):
    """Asks for no parts."""

    name = "plain"
    needs: ClassVar = frozenset({"features"})
    at_predict: ClassVar = frozenset({"features"})

    def _logits(self, batch):
        return batch.unit @ self.weights_.T


class MayUse(Plain):
    """Takes parts where there are some."""

    name = "may-use"
    optional: ClassVar = frozenset({"parts"})


@pytest.fixture
def clips():
    torch.manual_seed(0)
    support = FeatureSet.of_parts(torch.randn(4, 5, D), labels=torch.tensor([0, 1, 0, 1]), class_names=("a", "b"))
    return support, TextClassifier(torch.randn(2, D), class_names=("a", "b"))


def test_who_needs_parts_gets_them_and_nobody_else_does(clips):
    support, classifier = clips
    sets = {"val": support, "unlabeled": support.without_labels()}
    needing, plain, may = LastPart(), Plain(), MayUse()
    for adapter in (needing, plain, may):
        adapter.fit(support, classifier, **sets)
    assert all(torch.equal(shown.parts, support.parts) for shown in (*needing.shown, *may.shown))
    assert all(shown.parts is None for shown in plain.shown)
    may.fit(support.without_parts(), classifier)
    assert may.shown[0].parts is None


@pytest.mark.parametrize("lacking", ["support", "val", "unlabeled"])
def test_samples_without_parts_are_refused_in_one_line(clips, lacking):
    support, classifier = clips
    sets = {"support": support, "val": support, "unlabeled": support.without_labels()}
    sets[lacking] = sets[lacking].without_parts()
    said = r"adapter 'last-part' needs the parts of each sample \(frames, slices, windows\); these are single images"
    with pytest.raises(CapabilityError, match=said):
        LastPart().fit(sets["support"], classifier, val=sets["val"], unlabeled=sets["unlabeled"])


def test_a_batch_has_parts_where_the_method_predicts_from_them(clips):
    support, classifier = clips
    adapter = LastPart()
    adapter.fit(support, classifier)
    last = torch.nn.functional.normalize(support.parts[:, -1], dim=1) @ adapter.weights_.T
    torch.testing.assert_close(adapter.logits(support), last)
    torch.testing.assert_close(adapter.logits(Batch(parts=support.parts)), last)
    first_only = torch.arange(5).expand(4, 5) < 1
    torch.testing.assert_close(
        adapter.logits(Batch(parts=support.parts, parts_mask=first_only)),
        torch.nn.functional.normalize(support.parts[:, 0], dim=1) @ adapter.weights_.T,
    )
    with pytest.raises(CapabilityError, match=r"needs the parts of each sample .* to predict; pass Batch\(parts="):
        adapter.logits(support.features)
    with pytest.raises(CapabilityError, match="width 3, these have 7"):
        adapter.logits(Batch(parts=torch.zeros(2, 5, 7)))
    with pytest.raises(CapabilityError, match="carries no parts"):
        _ = Batch(features=support.features).unit_parts

"""Which images calibrate a fit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vladapt.core.contracts import FeatureSet, Item, Label
from vladapt.core.contracts.prepared import Shots
from vladapt.core.judgements import calibration
from vladapt.core.judgements.calibration import _on_scale, _unlearned, _weights
from vladapt.core.registry import build_adapter


def features(count: int, name: str) -> FeatureSet:
    return FeatureSet(
        torch.ones(count, 4), torch.arange(count) % 2, ("a", "b"), ids=tuple(map(f"{name}{{}}".format, range(count)))
    )


class Pool:
    """A data set with some training images that were drawn for nothing."""

    def __init__(self, left: int):
        drawn, free = (
            [Item(f"{name}{i}", "x", split="train") for i in range(count)]
            for name, count in (("support", 6), ("left", left))
        )
        self.data = self
        self.items = {"train": [*drawn, *free], "val": [], "test": [Item(f"test{i}", "x") for i in range(20)]}

    def split(self, name: str) -> list[Item]:
        return self.items[name]

    def of_ids(self, ids, parts=False) -> FeatureSet:
        return FeatureSet(torch.ones(len(ids), 4), torch.zeros(len(ids), dtype=torch.long), ("a", "b"), ids=tuple(ids))


@pytest.mark.parametrize(
    "val,taught,adapter,left,name",
    [
        (8, False, "tip-adapter", 9, "val"),
        (7, False, "tip-adapter", 9, "left"),
        (7, False, "tip-adapter", 0, "val"),
        (8, True, "tip-adapter", 9, "left"),
        (8, True, "tip-adapter", 0, None),
        (8, False, "transclip", 9, "test"),
    ],
)
def test_the_scale_is_told_by_images_that_taught_nothing_and_are_not_tested(val, taught, adapter, left, name):
    """Only methods that read all test images anyway are scaled on them."""
    shots = Shots(features(6, "support"), features(val, "val"), features(20, "test"))
    some = _unlearned(Pool(left), shots, build_adapter(adapter), 1, taught)
    if name is None:
        assert some is None
    else:
        assert all(i.startswith(name) for i in some.ids) and some.labels is None


def test_logits_of_a_fold_get_the_spread_of_the_fit():
    common = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    theirs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(
        _on_scale(theirs / 7 + 2, common / 7 + 2, common, False).softmax(1), theirs.softmax(1), atol=1e-5
    )
    slope, shift = torch.tensor([7.0, 0.2, 3.0]), torch.tensor([100.0, -1.0, 0.0])
    assert torch.allclose(_on_scale(theirs * slope + shift, common * slope + shift, common, True), theirs, atol=1e-3)


def test_rows_count_as_often_as_training_images_like_them():
    train = [Item(str(i), "x", target=Label(0 if i < 90 else 1)) for i in range(100)]
    weights = _weights(torch.tensor([0, 0, 1, 1]), train, 2)
    assert torch.allclose(weights, torch.tensor([1.8, 1.8, 0.2, 0.2], dtype=torch.float64))
    assert _weights(torch.tensor([0] * 9 + [1]), train, 2) is None


@pytest.mark.parametrize(("raw", "end"), [(0.2, "to 15.0%"), (0.1, "to 15.0%, no better on these test images")])
def test_a_calibration_that_does_not_help_says_so(raw, end, monkeypatch):
    monkeypatch.setattr(calibration, "_counted", lambda of: "")
    made = SimpleNamespace(words="temperature 2", source="4 images")
    scores = SimpleNamespace(adapted={"ece_uncalibrated": raw, "ece": 0.15})
    how = {"own_classes": True, "at": "fit", "labelled": True, "not_calibrated": ""}
    (said,) = calibration._sentences(SimpleNamespace(**how, labels=torch.zeros(2), calibration=made, scores=scores))
    assert said.endswith(end)

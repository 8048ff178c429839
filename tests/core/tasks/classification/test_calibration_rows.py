"""Which images calibrate a fit."""

from __future__ import annotations

import pytest
import torch

from vladapt.core.contracts import FeatureSet, Item, Label
from vladapt.core.registry import build_adapter
from vladapt.core.tasks.classification.calibration_rows import _on_scale, _unlearned, _weights
from vladapt.core.tasks.classification.images import Shots


def features(count: int, name: str) -> FeatureSet:
    return FeatureSet(
        torch.ones(count, 4), torch.arange(count) % 2, ("a", "b"), ids=tuple(map(f"{name}{{}}".format, range(count)))
    )


@pytest.mark.parametrize(
    "val,taught,adapter,name",
    [
        (8, False, "tip-adapter", "val"),
        (7, False, "tip-adapter", "test"),
        (8, True, "tip-adapter", "test"),
        (8, False, "transclip", "test"),
    ],
)
def test_the_scale_is_told_by_images_that_taught_nothing(val, taught, adapter, name):
    shots = Shots(features(6, "support"), features(val, "val"), features(20, "test"))
    some = _unlearned(shots, build_adapter(adapter), taught)
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

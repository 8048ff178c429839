"""Keys of another backbone: zero-shot stays with the texts' one, and images are compared by the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import Batch, FeatureSet
from vladapt.core.contracts.resources import FurtherBackbone
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.registry import build_adapter

QUICK = {
    "tip-adapter": {"search_step": (10, 5)},
    "tip-adapter-f": {"search_step": (10, 5), "epochs": 4},
    "proker": {"search_step": (5, 5)},
}


def named(features: FeatureSet, kind: str) -> FeatureSet:
    return replace(features, ids=tuple(f"{kind} {n}" for n in range(len(features))))


def turned(features: FeatureSet, wide: int = 0) -> FeatureSet:
    """By a backbone whose features are the same in another order (0), or others of so many numbers."""
    drawn = torch.Generator().manual_seed(5)
    matrix = torch.randn(16, wide, generator=drawn) if wide else torch.eye(16)[torch.randperm(16, generator=drawn)]
    return replace(features, features=features.features @ matrix, views=None)


def fitted(name: str, task, wide: int | None, with_val: bool, **options):
    """With keys of another backbone, or of the own where `wide` is None; with its logits of the test images."""
    support, val = named(task.support, "support"), named(task.val, "val") if with_val else None
    adapter, resources = build_adapter(name, **{**QUICK[name], **options}), {}
    if wide is not None:
        other_val = None if val is None else turned(val, wide)
        resources = {"keys": FurtherBackbone("dino", turned(support, wide), other_val, task.text)}
    report = adapter.fit(support, task.text, val=val, resources=resources)
    keys = None if wide is None else turned(task.test, wide).features
    return adapter, report, adapter.logits(Batch(features=task.test.features, keys=keys))


@pytest.mark.parametrize("with_val", [True, False], ids=["val", "held out"])
@pytest.mark.parametrize("shots", [8, [4, 9, 5, 12, 8]], ids=["equal", "unequal"])
@pytest.mark.parametrize("name", QUICK)
def test_a_backbone_with_the_same_features_in_another_order_changes_nothing(make_task, name, shots, with_val):
    """Searched, trained, held out, with offsets: everywhere the other's features take the place of the own."""
    task = make_task(shots=shots, noise=2.0, views=3)
    _, plain, logits = fitted(name, task, None, with_val, views=0)
    _, keyed, same = fitted(name, task, 0, with_val)
    assert keyed.val_score == plain.val_score and keyed.chosen == pytest.approx(plain.chosen)
    torch.testing.assert_close(same, logits, atol=1e-3, rtol=1e-4)
    assert keyed.notes == ["cache keys are features of backbone dino"]


@pytest.mark.parametrize("name", QUICK)
def test_another_backbone_gives_other_keys_of_its_own_width(make_task, name):
    task = make_task(shots=6, noise=2.0)
    adapter, _, logits = fitted(name, task, 24, True)
    assert not torch.allclose(logits, fitted(name, task, None, True)[2], atol=0.1)
    assert (adapter.rows if name == "proker" else adapter.keys).shape == (30, 24)
    assert adapter.text.shape == (5, 16) and adapter.keyed


def test_proker_takes_the_kernel_from_the_keys_and_the_residual_from_the_texts(make_task):
    task = make_task(shots=4)
    other, queries = turned(task.support, 24).unit.double(), turned(task.test, 24).unit.double()
    text, unit = task.text.weights.double(), task.support.unit.double()
    residual = F.one_hot(task.support.labels, 5) - unit @ text.T
    coefficients = torch.linalg.inv(torch.exp(-2 * (1 - other @ other.T)) / 0.3 + torch.eye(20)) @ residual
    expected = task.test.unit.double() @ text.T + torch.exp(-2 * (1 - queries @ other.T)) @ coefficients
    ours = fitted("proker", task, 24, False, beta=2.0, penalty=0.3)[2]
    torch.testing.assert_close(ours, 100 * expected.float(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_images_that_the_other_backbone_does_not_know_are_named(make_task, name):
    task = make_task(shots=4)
    support = named(task.support, "support")
    keys = FurtherBackbone("dino", turned(support).select([0, 1, 2]), None, task.text)
    with pytest.raises(DataError, match="--resource keys=dino: that backbone has no features of support "):
        build_adapter(name).fit(support, task.text, resources={"keys": keys})


@pytest.mark.parametrize("name", QUICK)
def test_without_the_features_of_the_keys_nothing_is_predicted(make_task, name):
    task = make_task(shots=4)
    adapter = fitted(name, task, 24, False)[0]
    with pytest.raises(CapabilityError, match="keys of another backbone; pass Batch"):
        adapter.logits(task.test)

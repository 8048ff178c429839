"""Which part of a sample an answer rests on."""

from __future__ import annotations

import pytest
import torch

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.explanation import deciding_parts as module
from vladapt.core.explanation.deciding_parts import deciding_parts

NAMES = ("well", "ill")


def samples(count: int, seed: int = 0) -> tuple[FeatureSet, torch.Tensor, torch.Tensor]:
    """Five parts of noise each; one part of those that are ill is in a direction of its own. (set, labels, where)"""
    made = torch.Generator().manual_seed(seed)
    parts = torch.randn(count, 5, 8, generator=made)
    labels = torch.arange(count) % 2
    where = torch.randint(5, (count,), generator=made)
    parts[labels == 1, where[labels == 1]] = torch.tensor([9.0] + [0.0] * 7)
    mask = torch.ones(count, 5, dtype=torch.bool)
    features = FeatureSet(parts.mean(dim=1), labels, NAMES, parts=parts, parts_mask=mask)
    return features, labels, where


@pytest.fixture(scope="module", params=["mean-pool", "attention-pool"])
def adapter(request):
    torch.manual_seed(0)
    adapter = build_adapter(request.param)
    adapter.fit(samples(32)[0], _texts(), seed=0)
    return adapter


def _texts() -> TextClassifier:
    rows = torch.eye(8)[[1, 0]]
    return TextClassifier(weights=rows, class_names=NAMES, logit_scale=100.0)


def test_the_part_that_makes_it_ill_decides(adapter):
    features, labels, where = samples(24, seed=1)
    decided = deciding_parts(adapter, features, torch.ones(24, dtype=torch.long))
    ill = labels == 1
    assert (decided[ill] == where[ill]).float().mean() > 0.9


def test_a_single_part_decides_nothing_and_padding_never_does(adapter):
    features, _, _ = samples(6, seed=2)
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 0] = True
    mask[3:, 1] = True
    parts = features.parts * mask[..., None]
    few = FeatureSet(parts.sum(dim=1) / mask.sum(dim=1, keepdim=True), parts=parts, parts_mask=mask)
    decided = deciding_parts(adapter, few, torch.zeros(6, dtype=torch.long))
    assert decided[:3].tolist() == [-1] * 3 and set(decided[3:].tolist()) <= {0, 1}


def test_blocks_change_nothing(adapter, monkeypatch):
    features, _, _ = samples(10, seed=3)
    called = torch.arange(10) % 2
    whole = deciding_parts(adapter, features, called)
    monkeypatch.setattr(module, "AT_ONCE", 7)
    assert torch.equal(deciding_parts(adapter, features, called), whole)


def test_methods_that_see_the_mean_are_not_asked():
    adapter = build_adapter("zero-shot")
    features = samples(4)[0]
    adapter.fit(None, _texts())
    assert deciding_parts(adapter, features, torch.zeros(4, dtype=torch.long)) is None

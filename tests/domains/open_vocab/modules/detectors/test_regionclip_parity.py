"""RegionCLIP's box head against the public code's numbers."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from vladapt.registry import MODELS


@pytest.fixture(scope="module")
def fixture(parity_dir):
    spec = json.loads((parity_dir / "dev" / "regionclip.json").read_text())
    tensors = load_file(parity_dir / "dev" / "regionclip.safetensors")

    def assert_close(ours: torch.Tensor, name: str) -> None:
        facts = spec["tensors"][name]
        torch.testing.assert_close(ours.detach(), tensors[name], rtol=facts["rtol"], atol=facts["atol"])

    return tensors, assert_close


@pytest.fixture
def head(fixture, region_towers):
    """A box head with the fixture's texts, background and regression in place of its own."""
    tensors, _ = fixture
    names = [f"thing {letter}" for letter in "abcdef"]
    head = MODELS.build(
        {"type": "vladapt.RegionCLIPBBoxHead", "backbone": region_towers["resnet"], "classes": names, "in_channels": 32}
    )
    texts = torch.nn.functional.normalize(tensors["text_weights"], dim=1)
    rows = torch.cat([texts, tensors["bg_weight"]])
    head.fc_cls.rows = lambda: rows  # the reference's background is not zero there
    head.fc_reg.weight.data.copy_(tensors["box_weight"])
    head.fc_reg.bias.data.copy_(tensors["box_bias"])
    return head


def test_scores_and_deltas(head, fixture):
    tensors, assert_close = fixture
    scores, deltas = head(tensors["region_features"])
    assert_close(scores, "scores")
    assert_close(deltas, "box_deltas")


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("background", [None, 0.2])
def test_focal_losses_and_their_gradients(head, fixture, gamma, background):
    tensors, assert_close = fixture
    features = tensors["region_features"].clone().requires_grad_()
    weight = 1.0 if background is None else background
    loss = MODELS.build({"type": "vladapt.FocalScaledCrossEntropy", "gamma": gamma, "background_weight": weight})
    value = loss(head(features)[0], tensors["labels"])
    value.backward()
    assert_close(value, f"focal_g{gamma}_bg{background}")
    assert_close(features.grad, f"focal_g{gamma}_bg{background}_grad")


def test_another_temperature_or_background_weight_is_told(head, fixture):
    """Focal scaling changes these numbers less than the fixture's tolerance; closed forms hold it elsewhere."""
    tensors, assert_close = fixture
    scores = head(tensors["region_features"])[0]
    loss = MODELS.build({"type": "vladapt.FocalScaledCrossEntropy", "background_weight": 0.5})
    with pytest.raises(AssertionError):
        assert_close(loss(scores, tensors["labels"]), "focal_g0.5_bg0.2")
    with pytest.raises(AssertionError):
        assert_close(scores / 2, "scores")

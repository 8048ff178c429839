"""RegionCLIP's box head against the public code's numbers."""

from __future__ import annotations

import pytest
import torch

from vladapt.registry import MODELS


@pytest.fixture(scope="module")
def reference(references):
    (ref,) = references("regionclip")
    return ref


@pytest.fixture
def head(reference, region_towers):
    """A box head with the fixture's texts, background and regression in place of its own."""
    classes, width = reference["text_weights"].shape
    config = {"type": "vladapt.RegionCLIPBBoxHead", "backbone": region_towers["resnet"], "in_channels": width}
    config["temperature"] = reference.setting("temperature")
    head = MODELS.build({**config, "classes": [f"thing {number}" for number in range(classes)]})
    texts = torch.nn.functional.normalize(reference["text_weights"], dim=1)
    rows = torch.cat([texts, reference["bg_weight"]])
    head.fc_cls.rows = lambda: rows  # the reference's background is not zero there
    head.fc_reg.weight.data.copy_(reference["box_weight"])
    head.fc_reg.bias.data.copy_(reference["box_bias"])
    return head


def test_scores_and_deltas(head, reference):
    scores, deltas = head(reference["region_features"])
    reference.assert_close(scores, "scores")
    reference.assert_close(deltas, "box_deltas")


def test_focal_losses_and_their_gradients(head, reference):
    for key, gamma, background in reference.keys(r"focal_g([^_]+)_bg([^_]+)"):
        features = reference["region_features"].clone().requires_grad_()
        weight = 1.0 if background == "None" else float(background)
        config = {"type": "vladapt.FocalScaledCrossEntropy", "gamma": float(gamma), "background_weight": weight}
        value = MODELS.build(config)(head(features)[0], reference["labels"])
        value.backward()
        reference.assert_close(value, key)
        reference.assert_close(features.grad, f"{key}_grad")


def test_another_temperature_is_told(head, reference):
    scores = head(reference["region_features"])[0]
    assert not reference.check(scores / 2, "scores").share <= 1


def test_another_background_weight_or_gamma_changes_the_loss():
    """Of a fixture's regions they may change less than its tolerance, where the head is sure of them."""
    draw = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(20, 7, generator=draw), torch.arange(20) % 7  # 6 is the background

    def loss(**options):
        config = {"type": "vladapt.FocalScaledCrossEntropy", "gamma": 0.5, "background_weight": 0.2}
        return float(MODELS.build({**config, **options})(scores, labels))

    for other in ({"background_weight": 0.5}, {"gamma": 2.0}):
        assert abs(loss(**other) - loss()) > 1e-2

"""PromptSRC's self-regulation: three distances to the towers before they were trained."""

from __future__ import annotations

import pytest
import torch
from parity_checks.losses import self_regulation

from vladapt import ConfigError, build_loss

TERMS = ("text", "image", "scores")


def by_hand(out):
    q = (out["teacher.logit_scale"] * out["teacher.image"] @ out["teacher.class_features"].T).softmax(1)
    p = out["logits"].softmax(1)
    return {
        "text": (out["class_features"] - out["teacher.class_features"]).abs().sum() / out["class_features"].numel(),
        "image": (out["image_features"] - out["teacher.image"]).abs().sum() / out["image_features"].numel(),
        "scores": (q * (q / p).log()).sum() / q.numel(),
    }


@pytest.fixture
def out(example_out):
    return example_out(build_loss("self-regulation").needs)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_its_formula(out, term):
    loss = build_loss("self-regulation", **{name: 3.0 * (name == term) for name in TERMS})
    found = loss(out)
    torch.testing.assert_close(found["loss"], 3.0 * by_hand(out)[term])
    torch.testing.assert_close(found[term], by_hand(out)[term])


def test_published_weights(out):
    parts = by_hand(out)
    expected = 25 * parts["text"] + 10 * parts["image"] + parts["scores"]
    torch.testing.assert_close(build_loss("self-regulation")(out)["loss"], expected)


def test_towers_that_have_not_moved_cost_nothing(out):
    same = {
        **out,
        "class_features": out["teacher.class_features"],
        "image_features": out["teacher.image"],
        "logits": out["teacher.logit_scale"] * out["teacher.image"] @ out["teacher.class_features"].T,
    }
    assert float(build_loss("self-regulation")(same)["loss"]) == pytest.approx(0.0, abs=1e-6)


def test_agrees_with_the_reference(agrees):
    agrees(self_regulation)


def test_weights_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="option text="):
        build_loss("self-regulation", **dict.fromkeys(TERMS, 0.0))

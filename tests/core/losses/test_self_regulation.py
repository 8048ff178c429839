"""PromptSRC's self-regulation: three distances to the towers before they were trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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


def test_agrees_with_the_reference(reference):
    tensors, check = reference("promptsrc")
    given = {
        "logits": tensors["logits"],
        "labels": tensors["labels"],
        "image_features": tensors["image_features"],
        "class_features": tensors["text_features"],
        "teacher.image": tensors["zero_shot_image_features"],
        "teacher.class_features": F.normalize(tensors["teacher_text_raw"], dim=-1),
    }
    plain = given["teacher.image"] @ given["teacher.class_features"].T
    scale = (tensors["zero_shot_logits"] / plain).median()
    torch.testing.assert_close(scale * plain, tensors["zero_shot_logits"], rtol=2e-4, atol=2e-5)
    cross_entropy = build_loss("cross-entropy")(given)["loss"]
    check(cross_entropy, "ce")
    total = cross_entropy + build_loss("self-regulation")({**given, "teacher.logit_scale": scale})["loss"]
    torch.testing.assert_close(total, tensors["losses"][0], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("bad", [{"text": -1.0}, {"image": -1.0}, {"scores": -1.0}, dict.fromkeys(TERMS, 0.0)], ids=str)
def test_weights_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError, match=f"option {next(iter(bad))}="):
        build_loss("self-regulation", **bad)

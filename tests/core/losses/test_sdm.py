"""Similarity distribution matching beside IRRA's released function and its equation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import sdm

from vladapt import CapabilityError, build_loss


def test_value_and_gradients_are_irras(agrees):
    """With the ids of images and without."""
    agrees(sdm)


def example(labels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, len(labels), 5, generator=generator, dtype=torch.float64)
    image, text = (x.requires_grad_() for x in drawn)
    return {"image_features": image, "text_features": text, "labels": torch.tensor(labels)}


def by_hand(out, scale, epsilon):
    """IRRA's two sums: p log(p / (q + epsilon)), a pair at a time."""
    labels, total, count = out["labels"].tolist(), 0.0, len(out["labels"])
    for own, other in (("image_features", "text_features"), ("text_features", "image_features")):
        for i in range(count):
            x = out[own][i] / out[own][i].norm()
            logits = torch.stack([scale * x @ out[other][j] / out[other][j].norm() for j in range(count)])
            p = logits.exp() / logits.exp().sum()
            for j in range(count):
                q = (labels[i] == labels[j]) / labels.count(labels[i])
                total = total + p[j] * (p[j].log() - math.log(q + epsilon)) / count
    return total


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 100), st.floats(1, 50))
def test_value_and_gradients_are_the_equations(labels, seed, scale):
    out = example(labels, seed)
    ours = build_loss("sdm", logit_scale=scale, epsilon=1e-4)(out)["loss"]
    theirs = by_hand(out, scale, 1e-4)
    torch.testing.assert_close(ours, theirs)
    learned = [out["image_features"], out["text_features"]]
    for gradient, known in zip(torch.autograd.grad(ours, learned), torch.autograd.grad(theirs, learned)):
        torch.testing.assert_close(gradient, known)


def test_it_looks_at_directions_alone_and_is_symmetric():
    out = example([0, 1, 0, 2])
    loss = build_loss("sdm")
    longer = {**out, "image_features": 3 * out["image_features"], "text_features": 0.2 * out["text_features"]}
    torch.testing.assert_close(loss(out)["loss"], loss(longer)["loss"])
    swapped = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(loss(out)["loss"], loss(swapped)["loss"])
    torch.testing.assert_close(loss(out)["image_to_text"], loss(swapped)["text_to_image"])


def test_every_option_changes_the_loss():
    out = {**example([0, 1, 0, 2, 1]), "image_ids": torch.tensor([0, 1, 2, 3, 1])}
    plain = build_loss("sdm")
    assert (plain.logit_scale, plain.epsilon, plain.factor) == (50.0, 1e-8, 0.3)
    for option in ({"logit_scale": 20}, {"epsilon": 1e-4}, {"factor": 0.6}):
        assert abs(build_loss("sdm", **option)(out)["loss"] - plain(out)["loss"]) > 1e-3
    without = {name: value for name, value in out.items() if name != "image_ids"}
    assert abs(plain(without)["loss"] - plain(out)["loss"]) > 1e-3
    torch.testing.assert_close(build_loss("sdm", factor=1)(out)["loss"], plain(without)["loss"])
    with pytest.raises(CapabilityError, match="image_ids"):
        build_loss("sdm", image_ids=True)(without)

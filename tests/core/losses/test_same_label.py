"""Pictures and captions of one person as positives of each other, in losses whose positives are pairs."""

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, build_loss

NAMES = ("clip", "siglip")
NEEDS = frozenset({"image_features", "text_features", "logit_scale", "labels"})


@pytest.fixture
def batch(example_out):
    """`batch(labels)`: 8 pairs, whose features and scale have gradients."""

    def make(labels):
        out = example_out(NEEDS, 5)
        leaves = {name: value.clone().requires_grad_() for name, value in out.items() if name != "labels"}
        return {**leaves, "labels": torch.tensor(labels)}

    return make


def value_and_gradients(loss, out):
    value = loss(out)["loss"]
    value.backward()
    gradients = {name: leaf.grad.clone() for name, leaf in out.items() if leaf.requires_grad}
    for leaf in out.values():
        leaf.grad = None
    return value.detach(), gradients


def written_out(name, out, bias=-10.0):
    """Of the whole matrix."""
    same = (out["labels"][:, None] == out["labels"]) & (out["labels"][:, None] >= 0)
    same = (same | torch.eye(len(same), dtype=torch.bool)).float()
    logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    if name == "clip":
        targets = same / same.sum(dim=1, keepdim=True)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    return -F.logsigmoid((2 * same - 1) * (logits + bias)).sum() / len(same)


@pytest.mark.parametrize("name", NAMES)
def test_without_repeats_value_and_gradients_stay_to_the_bit(name, batch):
    out = batch([3, 0, 9, 4, -1, -1, 7, 1])
    before, of_before = value_and_gradients(build_loss(name), out)
    after, of_after = value_and_gradients(build_loss(name, same_label=True), out)
    assert torch.equal(before, after)
    assert of_before.keys() == of_after.keys() and all(torch.equal(of_before[key], of_after[key]) for key in of_before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("labels", [[0, 0, 1, 2, 1, 1, 3, -1], [4] * 8, [-1, -1, 5, 5, 2, 0, 2, -1]])
def test_all_of_a_label_belong_together(name, labels, batch):
    out = batch(labels)
    value, gradients = value_and_gradients(build_loss(name, same_label=True), out)
    wanted = written_out(name, out)
    wanted.backward()
    torch.testing.assert_close(value, wanted.detach(), rtol=1e-5, atol=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, out[key].grad, rtol=1e-4, atol=1e-5)
    assert abs(value - build_loss(name)(out)["loss"]) > 1e-3


def test_smoothing_spreads_what_the_positives_leave(batch):
    out = batch([0, 0, 1, 2, 1, 1, 3, 4])
    same = (out["labels"][:, None] == out["labels"]).float()
    targets = 0.8 * same / same.sum(dim=1, keepdim=True) + 0.2 / 8
    logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    wanted = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(build_loss("clip", same_label=True, label_smoothing=0.2)(out)["loss"], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_asked_for(name, batch):
    out = batch([0] * 8)
    del out["labels"]
    assert build_loss(name)(out)["loss"] > 0
    with pytest.raises(CapabilityError, match=f"loss '{name}' needs 'labels'"):
        build_loss(name, same_label=True)(out)

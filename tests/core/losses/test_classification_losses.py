"""The two losses that classification adapters minimise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_loss


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6))
def test_cross_entropy_is_minus_log_softmax_and_ignores_order(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (7,), generator=generator)
    loss = build_loss("cross-entropy")({"logits": logits, "labels": labels})["loss"]
    by_hand = -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[torch.arange(7), labels].mean()
    assert torch.allclose(loss, by_hand)
    order = torch.randperm(7, generator=generator)
    assert torch.allclose(loss, build_loss("cross-entropy")({"logits": logits[order], "labels": labels[order]})["loss"])


def test_label_smoothing_changes_the_loss_and_is_checked():
    out = {"logits": torch.tensor([[4.0, 0.0]]), "labels": torch.tensor([0])}
    assert build_loss("cross-entropy", label_smoothing=0.2)(out)["loss"] > build_loss("cross-entropy")(out)["loss"]
    with pytest.raises(ConfigError, match=r"label_smoothing=1\.5"):
        build_loss("cross-entropy", label_smoothing=1.5)


def test_class_priors_are_added_to_the_logits():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 0, 1, 2])
    priors = (torch.tensor([4.0, 1.0, 1.0]) / 6).log()
    loss = build_loss("cross-entropy")({"logits": logits, "labels": labels, "class_priors": priors})["loss"]
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits + priors, labels))
    assert loss != build_loss("cross-entropy")({"logits": logits, "labels": labels})["loss"]


def test_binary_cross_entropy_leaves_unknown_labels_out():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    loss = build_loss("binary-cross-entropy")({"logits": logits, "labels": labels})["loss"]
    p = logits.detach().sigmoid()
    assert torch.allclose(loss, -(p[0, 0].log() + (1 - p[1, 0]).log() + p[1, 1].log()) / 3)
    loss.backward()
    assert logits.grad[0, 1] == 0 and torch.isfinite(logits.grad).all()


def test_pos_weight_scales_the_positive_term():
    out = {"logits": torch.tensor([[0.0]]), "labels": torch.tensor([[1.0]])}
    plain = build_loss("binary-cross-entropy")(out)["loss"]
    assert torch.allclose(build_loss("binary-cross-entropy", pos_weight=3.0)(out)["loss"], 3 * plain)


def test_what_is_missing_is_named():
    with pytest.raises(CapabilityError, match="needs 'labels'"):
        build_loss("cross-entropy")({"logits": torch.ones(1, 2)})


def test_losses_are_finite_in_bf16():
    out = {"logits": torch.full((2, 3), 50.0, dtype=torch.bfloat16), "labels": torch.tensor([0, 2])}
    assert torch.isfinite(build_loss("cross-entropy")(out)["loss"])

"""SigLIP's loss, beside open_clip's and its equation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import siglip

from vladapt import build_loss
from vladapt.core.losses import _info_nce
from vladapt.core.losses.siglip import pairwise_sigmoid


@pytest.mark.parametrize("entries", [12 * 5, 1 << 22])
def test_value_and_gradients_are_open_clips(agrees, entries, monkeypatch):
    monkeypatch.setattr(_info_nce, "ENTRIES", entries)
    agrees(siglip)


def unit(count, seed, dim=4):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).requires_grad_()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.floats(0.5, 100), st.floats(-12, 3), st.integers(1, 30))
def test_blocks_of_any_height_give_the_equation(count, seed, scale, bias, entries):
    a, b = unit(count, seed), unit(count, seed + 1)
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (scale, bias))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_info_nce, "ENTRIES", entries)
        ours = pairwise_sigmoid(a, b, scale, bias)
        with torch.no_grad():
            torch.testing.assert_close(ours, pairwise_sigmoid(a, b, scale, bias))
    theirs = 0.0
    for i in range(count):
        for j in range(count):
            z = 1.0 if i == j else -1.0
            theirs = theirs + torch.log1p(torch.exp(-z * (scale * a[i] @ b[j] + bias))) / count
    torch.testing.assert_close(ours, theirs)
    for gradient, wanted in zip(*(torch.autograd.grad(loss, (a, b, scale, bias)) for loss in (ours, theirs))):
        torch.testing.assert_close(gradient, wanted)


def test_gradients_pass_gradcheck(monkeypatch):
    monkeypatch.setattr(_info_nce, "ENTRIES", 11)
    scalars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (6.0, -3.0)]
    assert torch.autograd.gradcheck(pairwise_sigmoid, (unit(5, 0), unit(5, 1), *scalars))


def test_the_models_bias_goes_before_the_losss_own(example_out):
    loss = build_loss("siglip")
    out = example_out(loss.needs)
    assert loss.bias.item() == -10
    given_ = {**out, "logit_bias": torch.tensor(-10.0)}
    torch.testing.assert_close(loss(out)["loss"], loss(given_)["loss"])
    loss({**out, "logit_bias": torch.tensor(-4.0, requires_grad=True)})["loss"].backward()
    assert loss.bias.grad is None
    loss(out)["loss"].backward()
    assert loss.bias.grad.abs() > 0


def test_where_the_bias_starts_changes_the_loss(example_out):
    out = example_out(build_loss("siglip").needs)
    assert abs(build_loss("siglip", init_bias=-2.71)(out)["loss"] - build_loss("siglip")(out)["loss"]) > 0.1


def test_image_and_text_are_alike_to_it(example_out):
    loss = build_loss("siglip")
    out = example_out(loss.needs)
    swapped = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(loss(out)["loss"], loss(swapped)["loss"])

"""ProLIP beside the reference's numbers and its equations written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import prolip

from vladapt import CapabilityError, build_loss
from vladapt.core.losses.prolip import inclusion_loss, inclusion_test


def test_every_term_and_gradient_is_the_references(agrees):
    """Of the whole loss, of its logits and its inclusion test, and of a soft inclusion."""
    agrees(prolip)


def released_inclusion(m1, s1, m2, s2, eps, sigma=1.0):
    """The paper's A, B and C, one number at a time."""
    v1, v2 = math.exp(-s1 + eps), math.exp(-s2 + eps)
    a, b, c = v1 + v2 / 2, 2 * m1 * v1 + m2 * v2, m1**2 * v1 + m2**2 * v2 / 2
    return sigma * (-2 * s1 - s2) - 0.5 * math.log(a) + b**2 / (4 * a) - c


@settings(max_examples=40, deadline=None)
@given(*[st.floats(-1, 1)] * 2, *[st.floats(-4, 4)] * 2, st.floats(-3, 1), st.booleans())
def test_the_inclusion_test_is_the_papers_a_b_c(m1, m2, s1, s2, eps, exact):
    gaussians = [torch.tensor([[value]], dtype=torch.float64) for value in (m1, s1, m2, s2)]
    got = inclusion_test(*gaussians, eps, exact)
    expected = released_inclusion(m1, s1, m2, s2, eps, 0.5 if exact else 1.0)
    assert got.item() == pytest.approx(expected, rel=1e-7, abs=1e-7)


@settings(max_examples=10, deadline=None)
@given(*[st.floats(-1, 1)] * 2, *[st.floats(-2, 1)] * 2)
def test_exact_inclusion_is_the_log_of_the_integral(m1, m2, s1, s2):
    """Up to its constant, by summing p_1^2 p_2 over a fine grid."""
    x = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
    normal = [torch.exp(-((x - m) ** 2) / (2 * math.exp(s))) / math.exp(s / 2) for m, s in ((m1, s1), (m2, s2))]
    integral = torch.trapezoid(normal[0] ** 2 * normal[1], x)
    gaussians = [torch.tensor([[value]], dtype=torch.float64) for value in (m1, s1, m2, s2)]
    got = inclusion_test(*gaussians, 0.0, exact=True)
    assert got.item() == pytest.approx(math.log(integral.item()) - 0.5 * math.log(math.pi), abs=1e-5)


def test_the_narrow_lies_in_the_wide_and_not_the_wide_in_the_narrow():
    mean, narrow, wide = torch.zeros(1, 3), torch.full((1, 3), -3.0), torch.full((1, 3), 0.0)
    assert inclusion_loss(mean, narrow, mean, wide, 1.0, 0.0) < 0.1
    assert inclusion_loss(mean, wide, mean, narrow, 1.0, 0.0) > 1


def test_extreme_variances_stay_finite():
    mean = torch.nn.functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    low = torch.full((2, 4), -80.0, requires_grad=True)
    loss = inclusion_loss(mean, low, -mean, torch.full((2, 4), 20.0), 1000.0, -10.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(low.grad).all()


@pytest.fixture
def out(example_out):
    """An example with masked views of all samples."""
    return example_out(build_loss("prolip", masked=True).needs)


def test_ppcl_is_the_sigmoid_loss_of_the_equation(out):
    image, text = out["image_features"].double(), out["text_features"].double()
    out = {name: value - 4 if name.endswith("log_variance") else value for name, value in out.items()}
    variances = [out[f"{tower}_log_variance"].double().exp().sum(dim=1) for tower in ("image", "text")]
    total = 0.0
    for i in range(8):
        for j in range(8):
            logit = 11.3 * (image[i] @ text[j] - (variances[0][i] + variances[1][j]) / 2) - 10
            total += torch.log1p((-logit if i == j else logit).exp())
    assert build_loss("prolip")(out)["ppcl"].item() == pytest.approx(total.item() / 8, rel=1e-4)


def test_vib_is_the_divergence_from_the_unit_gaussian(out):
    exact = build_loss("prolip", exact_gaussians=True)(out)["vib"]
    expected = 0.0
    for tower in ("image", "text"):
        ours = torch.distributions.Normal(out[f"{tower}_features"], (out[f"{tower}_log_variance"] / 2).exp())
        expected += torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(exact, expected)


def test_a_bias_of_its_own_learns_where_the_model_has_none(out):
    loss = build_loss("prolip", init_bias=-3.0)
    parts = loss(out)
    parts["loss"].backward()
    assert loss.bias.grad.abs() > 0
    torch.testing.assert_close(parts["loss"], loss({**out, "logit_bias": torch.tensor(-3.0)})["loss"])
    assert not torch.allclose(parts["loss"], loss({**out, "logit_bias": torch.tensor(-9.0)})["loss"])


@pytest.mark.parametrize(
    "changed",
    [
        {"ppcl_lambda": 0.5},
        {"inclusion_alpha": 1e-2},
        {"inclusion_alpha_occ": 0.0},
        {"vib_beta": 1e-1},
        {"inclusion_loss_scale": 1.0},
        {"inclusion_loss_eps": 1.0},
        {"masked_share": 0.5},
        {"exact_gaussians": True},
        {"init_bias": -5.0},
    ],
)
def test_each_option_changes_the_loss(changed, out):
    assert not torch.allclose(build_loss("prolip")(out)["loss"], build_loss("prolip", **changed)(out)["loss"])


def test_masked_views_are_asked_for_or_used_where_given(out):
    without = {name: value for name, value in out.items() if "masked" not in name}
    assert "image_masked_inclusion" not in build_loss("prolip")(without)
    assert "image_masked_inclusion" in build_loss("prolip")(out)
    with pytest.raises(CapabilityError, match="'image_masked'"):
        build_loss("prolip", masked=True)(without)


def test_fewer_masked_rows_are_those_of_the_first_samples(out):
    fewer = {name: value[:4] if "masked" in name else value for name, value in out.items()}
    given_ = build_loss("prolip")(fewer)
    torch.testing.assert_close(given_["loss"], build_loss("prolip", masked_share=0.5)(out)["loss"])


def test_a_caption_and_its_image_are_treated_alike_but_for_inclusion(out):
    """PPCL and VIB are symmetric; the inclusion of the image in the caption is not."""
    swapped = {
        name.replace("image", "x").replace("text", "image").replace("x_", "text_"): value for name, value in out.items()
    }
    ours, theirs = build_loss("prolip")(out), build_loss("prolip")(swapped)
    torch.testing.assert_close(ours["ppcl"], theirs["ppcl"])
    torch.testing.assert_close(ours["vib"], theirs["vib"])
    assert not torch.allclose(ours["inclusion"], theirs["inclusion"])


def test_gradients_by_differences():
    generator = torch.Generator().manual_seed(0)
    loss = build_loss("prolip", inclusion_alpha=0.1, inclusion_loss_scale=0.5, vib_beta=0.1).double()
    gaussians = [f"{side}_{part}" for side in ("image", "text") for part in ("features", "log_variance")]
    names = (*gaussians, "logit_scale", "logit_bias")
    values = [torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in gaussians]
    values += [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, -1.0)]
    assert torch.autograd.gradcheck(lambda *given_: loss(dict(zip(names, given_, strict=True)))["loss"], values)

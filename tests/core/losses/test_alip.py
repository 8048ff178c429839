"""ALIP beside the reference's numbers: weights, losses, gradients and where the means go."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import alip

from vladapt import build_loss
from vladapt.core.losses.alip import weighted_contrast


def test_weights_losses_gradients_and_means_are_the_references(agrees):
    agrees(alip)


def test_the_means_stay_until_the_step_is_done(example_out):
    loss = build_loss("alip")
    out, before = example_out(loss.needs), loss.means.clone()
    loss(out)
    assert torch.equal(loss.means, before)
    loss.after_step(None)
    assert not torch.equal(loss.means, before)


NAMES = ("image_features", "text_features", "text_synthetic")
EXPONENTS = st.just(0.0) | st.floats(1e-3, 3)


def equation(image, raw, caption, scale, means, ema, gamma_s, gamma_p):
    """Yang et al., one sample at a time."""
    count = len(image)
    alike = {"s": (raw, caption), "r": (image, raw), "c": (image, caption)}
    sims = {name: [one[i] @ other[i] for i in range(count)] for name, (one, other) in alike.items()}
    mean = {n: ema * m + (1 - ema) * sum(sims[n]) / count for n, m in zip(alike, means, strict=True)}
    total = 0.0
    for text, name in ((raw, "r"), (caption, "c")):
        for i in range(count):
            sample = (gamma_s * (sims["s"][i] - mean["s"])).exp()
            pair = (gamma_p * (sims[name][i] - mean[name])).exp() if sample < 1 else 1.0
            own = (scale * image[i] @ text[i]).exp()
            to_text = own / sum((scale * image[i] @ other).exp() for other in text)
            to_image = own / sum((scale * other @ text[i]).exp() for other in image)
            total -= min(sample, 1.0) * pair * (to_text.log() + to_image.log()) / 2 / count
    return total


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 0.9), EXPONENTS, EXPONENTS)
@example(seed=0, count=2, ema=0.0, gamma_s=1e-6, gamma_p=1.0)
def test_it_is_the_equation(seed, count, ema, gamma_s, gamma_p):
    generator = torch.Generator().manual_seed(seed)
    image, raw, caption = torch.nn.functional.normalize(
        torch.randn(3, count, 5, generator=generator, dtype=torch.float64), dim=-1
    )
    loss = build_loss("alip", ema=ema, gamma_s=gamma_s, gamma_p=gamma_p).double()
    loss.means.copy_(torch.tensor([0.1, -0.1, 0.2]))
    out = {"image_features": image, "text_features": raw, "text_synthetic": caption}
    got = loss({**out, "logit_scale": torch.tensor(4.0, dtype=torch.float64)})["loss"]
    torch.testing.assert_close(got, equation(image, raw, caption, 4.0, loss.means, ema, gamma_s, gamma_p))


def test_agreeing_texts_are_counted_in_full(example_out):
    """Above the mean both gates are open."""
    out = example_out(build_loss("alip").needs)
    loss = build_loss("alip", init_mean=-2.0, ema=0.999)
    assert loss(out)["sample_weight"].item() == 1
    image, scale = out["image_features"], out["logit_scale"]
    plain = weighted_contrast(image, out["text_features"], scale, torch.ones(8))
    torch.testing.assert_close(loss(out)["raw"], plain)


@pytest.mark.parametrize("nudge", [1 - 3e-7, 1.0, 1 + 3e-7])
def test_the_last_digit_of_equal_texts_does_not_open_or_shut_a_gate(nudge, example_out):
    out = example_out(build_loss("alip").needs)
    out["text_synthetic"] = out["text_features"] * nudge
    plain = weighted_contrast(out["image_features"], out["text_features"], out["logit_scale"], torch.ones(8))
    torch.testing.assert_close(build_loss("alip")(out)["raw"], plain, rtol=1e-4, atol=1e-4)


def test_no_gradient_passes_through_weights(example_out):
    out = example_out(build_loss("alip").needs)
    image = out["image_features"].clone().requires_grad_()
    loss = build_loss("alip")
    loss({**out, "image_features": image})["loss"].backward()
    sample, of_raw, of_caption = loss._weights(*(out[name] for name in NAMES))
    alone = out["image_features"].clone().requires_grad_()
    scale = out["logit_scale"]
    constant = weighted_contrast(alone, out["text_features"], scale, sample * of_raw)
    (constant + weighted_contrast(alone, out["text_synthetic"], scale, sample * of_caption)).backward()
    torch.testing.assert_close(image.grad, alone.grad)


def test_raw_texts_and_captions_may_be_exchanged(example_out):
    out = example_out(build_loss("alip").needs)
    exchanged = {**out, "text_features": out["text_synthetic"], "text_synthetic": out["text_features"]}
    torch.testing.assert_close(build_loss("alip")(out)["loss"], build_loss("alip")(exchanged)["loss"])


@pytest.mark.parametrize("changed", [{"ema": 0.5}, {"gamma_s": 0.0}, {"gamma_p": 0.0}, {"init_mean": 0.5}])
def test_each_option_changes_the_loss(changed, example_out):
    out = example_out(build_loss("alip").needs)
    assert not torch.allclose(build_loss("alip")(out)["loss"], build_loss("alip", **changed)(out)["loss"])


def test_means_are_saved(example_out):
    out, loss = example_out(build_loss("alip").needs), build_loss("alip")
    loss(out)
    loss.after_step(None)
    again = build_loss("alip")
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.means, loss.means) and not torch.allclose(again.means, torch.ones(3))
    torch.testing.assert_close(again(out)["loss"], loss(out)["loss"])

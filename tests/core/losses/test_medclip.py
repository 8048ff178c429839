"""MedCLIP's semantic matching beside the released code and its equation."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import medclip

from vladapt import CapabilityError, build_loss


def test_value_and_gradients_are_the_released_ones(agrees):
    """Also with an augmented text averaged in."""
    agrees(medclip)


def example(count, seed, findings=4):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    image, text = (x.requires_grad_() for x in F.normalize(drawn, dim=-1))
    told = torch.randint(-1, 2, (2, count, findings), generator=generator).double()
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    out = {"image_features": image, "text_features": text, "logit_scale": scale}
    return {**out, "image_findings": told[0], "text_findings": told[1]}


def by_hand(out, cosine):
    """The paper's two soft cross-entropies, a pair at a time."""
    image, text, scale, count = (
        *(out[n] for n in ("image_features", "text_features", "logit_scale")),
        len(out["image_features"]),
    )

    def agreement(i, j):
        x, y = out["image_findings"][i], out["text_findings"][j]
        lengths = (x.norm() * y.norm()).clamp(min=1e-12) if cosine else 1.0
        return x @ y / lengths

    def share(values, j):
        return values[j].exp() / sum(value.exp() for value in values)

    total = 0.0
    for i in range(count):
        for wanted, logits in (
            ([agreement(i, j) for j in range(count)], [scale * image[i] @ text[j] for j in range(count)]),
            ([agreement(j, i) for j in range(count)], [scale * image[j] @ text[i] for j in range(count)]),
        ):
            total = total - sum(share(wanted, j) * share(logits, j).log() for j in range(count)) / (2 * count)
    return total


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 100), st.booleans())
def test_value_and_gradients_are_the_equations(count, seed, cosine):
    out = example(count, seed)
    ours, theirs = build_loss("medclip", cosine=cosine)(out)["loss"], by_hand(out, cosine)
    torch.testing.assert_close(ours, theirs)
    learned = [out[name] for name in ("image_features", "text_features", "logit_scale")]
    for gradient, known in zip(torch.autograd.grad(ours, learned), torch.autograd.grad(theirs, learned)):
        torch.testing.assert_close(gradient, known)


def test_image_and_text_are_alike_to_it():
    out = example(5, 1)
    swapped = {
        "image_features": out["text_features"],
        "text_features": out["image_features"],
        "image_findings": out["text_findings"],
        "text_findings": out["image_findings"],
        "logit_scale": out["logit_scale"],
    }
    torch.testing.assert_close(build_loss("medclip")(out)["loss"], build_loss("medclip")(swapped)["loss"])


def test_options_and_findings_change_the_loss():
    out = example(5, 2)
    plain = build_loss("medclip")(out)["loss"]
    assert abs(build_loss("medclip", cosine=True)(out)["loss"] - plain) > 1e-3
    assert abs(build_loss("medclip")({**out, "image_findings": -out["image_findings"]})["loss"] - plain) > 1e-3
    torch.testing.assert_close(
        build_loss("medclip")({**out, "image_findings": out["image_findings"].long()})["loss"], plain
    )
    told = out["image_findings"]
    unknown = {**out, "image_findings": torch.where(told == 0, torch.nan, told)}
    torch.testing.assert_close(build_loss("medclip")(unknown)["loss"], plain)
    with pytest.raises(CapabilityError, match="text_view2"):
        build_loss("medclip", augmented_text=True)(out)

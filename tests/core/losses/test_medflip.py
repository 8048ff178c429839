"""MedFLIP beside its parts, computed directly: MedCLIP on visible patches, and a largest singular value."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import build_loss
from vladapt.core.losses._draws import Draws
from vladapt.core.losses.medflip import largest_singular_value
from vladapt.core.runtime.ranks import ONE
from vladapt.core.testing.thread_ranks import as_ranks


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def batch(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    told = torch.randint(-1, 2, (2, count, 4), generator=generator).double()
    out = {"text_features": unit(count, 5, seed=seed + 1), "logit_scale": torch.tensor(7.0, dtype=torch.float64)}
    out |= {"image_features": unit(count, 5, seed=seed + 2), "image_visible": unit(count, 5, seed=seed + 3)}
    return out | {"image_findings": told[0], "text_findings": told[1]}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 1000))
def test_the_largest_singular_value_and_its_gradient_are_those_of_the_svd(count, width, seed):
    """On either side of a square: more images than numbers of a feature, and fewer."""
    images, texts = unit(count, width, seed=seed), unit(count, width, seed=seed + 1)
    left, values, right = torch.linalg.svd((images @ texts.T).detach())
    ours = largest_singular_value(images, texts, ONE)
    torch.testing.assert_close(ours.detach(), values[0] / count, rtol=1e-6, atol=1e-9)
    if len(values) > 1 and values[1] > 0.99 * values[0]:
        return  # where two are nearly equal, the gradient is that of either
    outer = torch.outer(left[:, 0], right[0]) / count  # u v^T
    gradients = torch.autograd.grad(ours, (images, texts))
    for gradient, wanted in zip(gradients, (outer @ texts, outer.T @ images)):
        torch.testing.assert_close(gradient, wanted.detach(), rtol=1e-5, atol=1e-6)


def test_it_is_1_of_equal_pairs_and_1_of_n_where_pairs_are_orthogonal():
    alike = F.normalize(torch.ones(7, 3), dim=-1)
    assert float(largest_singular_value(alike, alike, ONE)) == pytest.approx(1.0)
    assert float(largest_singular_value(torch.eye(4), torch.eye(4), ONE)) == pytest.approx(0.25)


def test_ranks_share_it():
    images, texts = unit(6, 4), unit(6, 4, seed=1)

    def half(rank):
        from vladapt.core.runtime.ranks import present_ranks

        rows = slice(3 * rank, 3 * rank + 3)
        return largest_singular_value(images[rows].detach(), texts[rows].detach(), present_ranks())

    for value in as_ranks(2, half):
        torch.testing.assert_close(value, largest_singular_value(images, texts, ONE).detach())


@pytest.mark.parametrize(("sign", "factor"), [("plus", 1), ("minus", -1)])
def test_it_is_medclip_of_visible_patches_with_the_singular_value(sign, factor):
    out = batch()
    parts = build_loss("medflip", svd_weight=0.3, svd_sign=sign)(out)
    matched = build_loss("medclip")({**out, "image_features": out["image_visible"]})["loss"]
    value = torch.linalg.svdvals(out["image_visible"] @ out["text_features"].T)[0] / 6
    torch.testing.assert_close(parts["loss"], matched + factor * 0.3 * value)
    torch.testing.assert_close(parts["svd"], value)


@pytest.mark.parametrize(
    "option",
    [{"masked": 0}, {"svd_weight": 0}, {"svd_weight": 0.5}, {"svd_sign": "minus"}, {"cosine": True}],
    ids=str,
)
def test_every_option_changes_the_loss(option):
    one, other = (build_loss("medflip", **options)(batch(seed=1))["loss"].item() for options in ({}, option))
    assert abs(one - other) > 1e-3


def test_terms_of_weight_0_are_left_out_with_what_they_need():
    whole = build_loss("medflip", masked=0, svd_weight=0)
    assert "image_features" in whole.needs and "image_visible" not in whole.needs
    out = batch(seed=2)
    assert whole(out)["loss"] == build_loss("medclip")(out)["loss"] and "svd" not in whole(out)


@pytest.mark.parametrize("masked", [0.25, 0.5, 0.75])
def test_the_tower_sees_the_share_of_patches_that_is_left(masked, small_clip):
    """By hand: blocks on the class token and these patches alone."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    fields = {"pixels": pixels, "draws": torch.rand(3, 4, 8, generator=generator)}
    with torch.no_grad():
        made = build_loss("medflip", masked=masked).further_outputs(fields, small_clip)["image_visible"]
        x = small_clip.embed_image(pixels)
        _, places = Draws.visible_tokens(x, 1, fields["draws"], 1 - masked)
        assert places.shape == (3, round(4 * (1 - masked)))
        for row in range(3):
            some = torch.cat([x[row, :1], x[row, 1:][places[row]]])[None]
            feature = small_clip.pool_image(small_clip.run_blocks("image", some))[0]
            torch.testing.assert_close(made[row], feature)
        assert not torch.allclose(made, small_clip.encode_image(pixels), atol=1e-3)

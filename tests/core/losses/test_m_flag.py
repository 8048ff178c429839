"""M-FLAG's two terms beside the released functions, and the heads around them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import m_flag
from torch import nn

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses.m_flag import align_loss, orthogonal_loss


def test_both_terms_are_the_released_ones(agrees):
    agrees(m_flag)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0, 1), st.integers(0, 100))
def test_orthogonality_is_the_equation(batch, width, weight, seed):
    latent = torch.randn(batch, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = 0.0
    for i in range(width):
        for j in range(width):
            entry = sum(latent[b, i] * latent[b, j] for b in range(batch)) / batch
            wanted += ((entry - 1) ** 2 if i == j else weight * entry**2) / 2
    torch.testing.assert_close(orthogonal_loss(latent, weight), wanted)


def test_gradients_pass_gradcheck():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(orthogonal_loss, (a,))
    assert torch.autograd.gradcheck(align_loss, (a, b))


def test_the_loss_is_both_terms_of_the_unprojected_and_the_projected(example_out, dims):
    loss = build_loss("m-flag", dims)
    out = example_out(loss.needs)
    parts = loss(out)
    torch.testing.assert_close(parts["orthogonal"], orthogonal_loss(out["image_hidden"]))
    image, text = loss.of_image(out["image_hidden"]), loss.of_text(out["text_features"])
    torch.testing.assert_close(parts["align"], align_loss(image, text))
    torch.testing.assert_close(parts["loss"], parts["align"] + parts["orthogonal"])
    torch.testing.assert_close(image.mean(dim=0), torch.zeros(1024), atol=1e-5, rtol=0)  # BatchNorm comes last


def test_heads_are_the_published_ones(dims):
    loss = build_loss("m-flag", dims)
    for head, width in ((loss.of_image, dims["image_width"]), (loss.of_text, dims["embed_dim"])):
        assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
        assert (head[0].in_features, head[0].out_features, head[3].out_features) == (width, 2048, 1024)
        assert head[1].affine and not head[4].affine


def test_the_text_tower_is_to_be_frozen_and_gets_no_gradient(example_out, dims):
    loss = build_loss("m-flag", dims)
    assert loss.frozen_towers == {"text"}
    out = {name: value.requires_grad_() for name, value in example_out(loss.needs).items()}
    loss(out)["loss"].backward()
    assert out["text_features"].grad is None and out["image_hidden"].grad.abs().max() > 0
    assert loss.of_text[0].weight.grad.abs().max() > 0


def test_images_and_texts_find_each_other_through_the_projectors(small_clip):
    loss = build_loss("m-flag", {"image_width": 32, "embed_dim": 24}, hidden=16, width=8).eval()
    pixels, tokens = torch.rand(3, 3, 16, 16), small_clip.tokenize(["one", "two"])
    images, texts = loss.embed_image(small_clip, pixels), loss.embed_text(small_clip, tokens)
    torch.testing.assert_close(images, F.normalize(loss.of_image(small_clip.hidden(pixels)), dim=-1))
    torch.testing.assert_close(texts, F.normalize(loss.of_text(small_clip.encode_text(tokens)), dim=-1))
    assert images.shape == (3, loss.found_dim)


def test_every_option_changes_the_loss(example_out, dims):
    out = example_out(build_loss("m-flag", dims).needs)

    def value(**options):
        torch.manual_seed(0)
        return build_loss("m-flag", dims, **options)(out)["loss"]

    for option in ({"hidden": 64}, {"width": 32}, {"off_diagonal": 0.5}, {"orthogonality": 0.1}):
        assert abs(value(**option) - value()) > 1e-4, option


def test_options_are_checked(dims):
    for option in ({"hidden": 0}, {"width": 0}, {"off_diagonal": -1}, {"orthogonality": -1}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            build_loss("m-flag", dims, **option)
    with pytest.raises(CapabilityError, match="image_width"):
        build_loss("m-flag", {"embed_dim": 4})

"""Long-CLIP: its components beside the reference's numbers, its loss written out, and what it does to a tower."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import long_clip
from torch.nn.functional import normalize

from vladapt import CapabilityError, build_loss
from vladapt.core.losses.long_clip import primary_components


def test_components_and_their_gradient_are_the_references(agrees):
    agrees(long_clip)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (6, 6)])
@pytest.mark.parametrize("count", [1, 2])
def test_their_gradient_by_differences(shape, count):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: primary_components(x, count), (features,))


def test_their_gradient_is_finite_where_components_are_equal():
    """Two pairs of equal components; torch's own gradient of the decomposition is not a number there."""
    directions = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    features = torch.cat([directions, -directions]).requires_grad_()
    primary_components(features, 2)[:, 0].square().sum().backward()
    assert torch.isfinite(features.grad).all() and features.grad.abs().max() > 0
    tied = torch.cat([torch.eye(4), -torch.eye(4)]).requires_grad_()
    primary_components(tied, 2).square().sum().backward()
    assert torch.isfinite(tied.grad).all()


def test_equal_rows_and_a_constant_batch_stay_finite():
    for features in (torch.ones(6, 5), torch.eye(5)[[0, 0, 0, 1, 1, 1]]):
        features.requires_grad_()
        made = primary_components(features, 2)
        made.square().sum().backward()
        assert torch.isfinite(features.grad).all()
        torch.testing.assert_close(made, features)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(1, 6), st.integers(1, 9))
def test_components_are_a_projection_about_the_mean(seed, rows, width, count):
    features = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = primary_components(features, count)
    torch.testing.assert_close(made.mean(0), features.mean(0))
    torch.testing.assert_close(primary_components(made, count), made)
    assert torch.linalg.matrix_rank(made - made.mean(0), tol=1e-8) <= count
    if count >= min(rows - 1, width):
        torch.testing.assert_close(made, features)


def equation(image, long, short, scale, components, smoothing):
    """Zhang et al., with the covariance's eigenvectors and one sample at a time."""
    mean = image.mean(dim=0)
    _, vectors = torch.linalg.eigh((image - mean).T @ (image - mean))
    first = vectors[:, -components:]
    primary = (image - mean) @ first @ first.T + mean
    total = 0.0
    for seen, text in ((image, long), (primary, short)):
        logits = scale * seen @ text.T
        for scores in (logits, logits.T):
            for i in range(len(scores)):
                chances = scores[i].log_softmax(dim=0)
                total -= ((1 - smoothing) * chances[i] + smoothing * chances.mean()) / (2 * len(scores))
    return total


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.4]))
def test_it_is_the_equation(seed, components, smoothing):
    generator = torch.Generator().manual_seed(seed)
    image, long, short = normalize(torch.randn(3, 7, 5, generator=generator, dtype=torch.float64), dim=-1)
    out = {"image_features": image, "text_features": long, "text_short": short}
    loss = build_loss("long-clip", components=components, label_smoothing=smoothing)
    got = loss({**out, "logit_scale": torch.tensor(6.0, dtype=torch.float64)})["loss"]
    torch.testing.assert_close(got, equation(image, long, short, 6.0, components, smoothing))


@pytest.mark.parametrize("changed", [{"short_weight": 0.1}, {"components": 2}, {"label_smoothing": 0.0}])
def test_each_option_changes_the_loss(changed, example_out):
    out = example_out(build_loss("long-clip").needs)
    assert not torch.allclose(build_loss("long-clip")(out)["loss"], build_loss("long-clip", **changed)(out)["loss"])


def test_two_processes_share_the_components_of_the_whole_batch(on_two_ranks, example_out):
    batch = example_out(build_loss("long-clip").needs, seed=1)
    whole = build_loss("long-clip", components=3)(batch)["loss"]
    for half in on_two_ranks("long-clip", {"options": {"components": 3}, "batches": [batch]}):
        torch.testing.assert_close(half["steps"][0]["loss"], whole, rtol=1e-5, atol=1e-5)


def test_the_order_of_the_batch_means_nothing_to_components(example_out):
    out = example_out(build_loss("long-clip").needs)
    turned = {name: value.flip(0) if value.ndim else value for name, value in out.items()}
    loss = build_loss("long-clip", components=3)
    torch.testing.assert_close(loss(out)["loss"], loss(turned)["loss"], rtol=1e-5, atol=1e-5)


def test_a_tower_gets_its_context_and_keeps_its_first_positions(small_clip_spec):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    loss = build_loss("long-clip")
    loss.prepare(backbone)
    assert backbone.context_length == 248
    table = backbone.model.positional_embedding
    before = table.detach().clone()
    table.requires_grad_(True)
    optimizer = torch.optim.AdamW([table], lr=0.1, weight_decay=0.5)
    backbone.encode_text(["a photo of a dog " * 30])[0, 0].backward()
    optimizer.step()
    loss.after_step(None)
    assert torch.equal(table[:20], before[:20]) and not torch.allclose(table[20:], before[20:])


def test_a_tower_that_was_stretched_is_not_stretched_again(small_clip_spec):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    build_loss("long-clip").prepare(backbone)
    build_loss("long-clip").prepare(backbone)
    assert backbone.context_length == 248
    build_loss("long-clip", stretch_up_to=300, keep=200, factor=2).prepare(backbone)
    assert backbone.context_length == 200 + 2 * 48


def test_factor_one_leaves_the_context(small_clip_spec):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    build_loss("long-clip", factor=1).prepare(backbone)
    assert backbone.context_length == 77


def test_other_towers_are_refused(tmp_path):
    class Other:
        spec, family, capabilities, context_length = "other", "other", frozenset(), 77

    with pytest.raises(CapabilityError, match="backbone 'other' cannot be given a longer context"):
        build_loss("long-clip").prepare(Other())

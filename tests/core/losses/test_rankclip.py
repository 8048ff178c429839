"""RankCLIP beside the reference's numbers and ListMLE written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import rankclip

from vladapt import build_loss
from vladapt.core.losses.rankclip import list_mle, ranking_weight


def test_values_and_gradients_are_the_references(agrees):
    """At some epochs, and of ListMLE alone."""
    agrees(rankclip)


def likelihood(scores, order_by):
    """Of drawing items one by one in the given order, each with the softmax of what is left."""
    total = 0.0
    for row, keys in zip(scores.tolist(), order_by.tolist(), strict=True):
        left = sorted(range(len(row)), key=lambda i, keys=keys: -keys[i])
        while left:
            total += row[left[0]] - math.log(sum(math.exp(row[i]) for i in left))
            left = left[1:]
    return total / len(scores)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_list_mle_is_the_likelihood_of_the_order(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    scores, order_by = 3 * torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    assert list_mle(scores, order_by).item() == pytest.approx(-likelihood(scores, order_by), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_ranking_as_the_other_does_is_cheapest(seed):
    scores = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed))
    right = list_mle(scores, scores)
    assert all(list_mle(scores, torch.tensor([other])) >= right - 1e-6 for other in [[1, 2, 3, 4, 5], [5, 1, 4, 2, 3]])


def test_ties_keep_the_order_of_the_batch():
    scores = torch.tensor([[1.0, 5.0, 2.0]])
    tied = list_mle(scores, torch.zeros(1, 3))
    assert tied.item() == pytest.approx(-likelihood(scores, torch.tensor([[3, 2, 1]])), rel=1e-6)
    assert all(torch.equal(tied, list_mle(scores, torch.zeros(1, 3))) for _ in range(5))


def test_no_gradient_reaches_what_gives_the_order():
    order_by = torch.randn(2, 3, requires_grad=True)
    scores = torch.randn(2, 3, requires_grad=True)
    list_mle(scores, order_by).backward()
    assert order_by.grad is None and scores.grad.abs().max() > 0


def test_large_scales_stay_exact():
    scores = torch.tensor([[100.0, -100.0, 0.0]], requires_grad=True)
    value = list_mle(scores, torch.tensor([[1.0, 3.0, 2.0]]))
    value.backward()
    assert value.item() == pytest.approx(300.0) and torch.isfinite(scores.grad).all()


def test_the_weight_grows_to_two():
    assert [ranking_weight(share) for share in (0.0, 0.25, 0.5, 2 / 3, 1.0)] == pytest.approx([0, 0.75, 1.5, 2, 2])


def test_it_starts_as_clip(example_out):
    out = example_out(build_loss("rankclip").needs)
    parts = build_loss("rankclip")(out, progress=0.0)
    torch.testing.assert_close(parts["loss"], parts["clip"])
    assert build_loss("rankclip")(out, progress=0.5)["loss"] > parts["loss"] + 1e-3


def test_images_and_texts_may_be_exchanged(example_out):
    out = example_out(build_loss("rankclip").needs)
    exchanged = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(build_loss("rankclip")(out, 0.5)["loss"], build_loss("rankclip")(exchanged, 0.5)["loss"])


@pytest.mark.parametrize(
    "changed", [{"lambda_cross": 0.0}, {"lambda_in": 0.0}, {"divisor": 1.0}, {"per_sample": False}, {"eps": 0.0}]
)
def test_each_option_changes_the_loss(changed, example_out):
    out = {**example_out(build_loss("rankclip").needs), "logit_scale": torch.tensor(100.0)}
    ours, other = build_loss("rankclip")(out, 0.5)["loss"], build_loss("rankclip", **changed)(out, 0.5)["loss"]
    assert not torch.allclose(ours, other, rtol=1e-4)


def test_gradients_by_differences():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    scale, loss = torch.tensor(2.0, dtype=torch.float64), build_loss("rankclip", eps=1e-3)

    def value(image, text, scale):
        return loss({"image_features": image, "text_features": text, "logit_scale": scale}, 0.5)["loss"]

    assert torch.autograd.gradcheck(value, [tensor.requires_grad_() for tensor in (image, text, scale)])

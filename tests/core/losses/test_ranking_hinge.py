"""The ranking hinge beside its two equations, pair by pair."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import build_loss


def pairs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, count, 5, generator=generator, dtype=torch.float64)
    image, text = F.normalize(drawn, dim=-1)
    return image.requires_grad_(), text.requires_grad_()


def by_hand(image, text, margin, hardest):
    """Of VSE++'s equations the sum over others, or the largest of them."""
    count, zero, total = len(image), torch.zeros((), dtype=torch.float64), 0.0
    for i in range(count):
        own = image[i] @ text[i]
        captions = [torch.maximum(zero, margin - own + image[i] @ text[j]) for j in range(count) if j != i]
        images = [torch.maximum(zero, margin - own + image[j] @ text[i]) for j in range(count) if j != i]
        for others in (captions, images):
            if others:
                others = torch.stack(others)
                total = total + (others.max() if hardest else others.sum()) / count
    return total


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(0, 1000), st.floats(0.05, 1.5), st.booleans())
def test_value_and_gradients_are_the_equations(count, seed, margin, hardest):
    image, text = pairs(count, seed)
    loss = build_loss("ranking-hinge", margin=margin, hardest=hardest)({"image_features": image, "text_features": text})
    wanted = by_hand(image, text, margin, hardest)
    torch.testing.assert_close(loss["loss"], wanted)
    torch.testing.assert_close(loss["image_to_text"] + loss["text_to_image"], wanted)
    for name in (image, text):
        (ours,) = torch.autograd.grad(loss["loss"], name, retain_graph=True)
        (theirs,) = torch.autograd.grad(wanted, name, retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_the_published_margin_is_the_default_and_the_sum(example_out):
    out = example_out({"image_features", "text_features"})
    loss = build_loss("ranking-hinge")
    assert (loss.margin, loss.hardest) == (0.2, False)
    torch.testing.assert_close(loss(out)["loss"], by_hand(*(x.double() for x in out.values()), 0.2, False).float())


def test_pairs_a_margin_apart_cost_nothing():
    same = torch.eye(4).requires_grad_()
    for hardest in (False, True):
        out = {"image_features": same, "text_features": torch.eye(4)}
        assert build_loss("ranking-hinge", margin=1.0, hardest=hardest)(out)["loss"] == 0
        assert build_loss("ranking-hinge", margin=1.1, hardest=hardest)(out)["loss"] > 0


def test_image_and_text_are_alike_to_it():
    image, text = pairs(6, 3)
    for hardest in (False, True):
        loss = build_loss("ranking-hinge", hardest=hardest)
        one = loss({"image_features": image, "text_features": text})
        other = loss({"image_features": text, "text_features": image})
        torch.testing.assert_close(one["loss"], other["loss"])
        torch.testing.assert_close(one["image_to_text"], other["text_to_image"])

"""NegCLIP beside the reference's numbers and the equation written out."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import neg_clip

from vladapt import build_loss


def equation(image, text, negative, scale):
    """Yuksekgonul et al., one sample at a time."""
    total = image.new_zeros(())
    for i in range(len(image)):
        own = (scale * image[i] @ text[i]).exp()
        captions = sum((scale * image[i] @ t).exp() for t in [*text, *negative])
        images = sum((scale * other @ text[i]).exp() for other in image)
        total = total - (own / captions).log() / 2 - (own / images).log() / 2
    return total / len(image)


def test_value_and_gradients_are_the_references(agrees):
    agrees(neg_clip)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_it_is_the_equation(seed, count):
    generator = torch.Generator().manual_seed(seed)
    image, text, negative = torch.nn.functional.normalize(
        torch.randn(3, count, 6, generator=generator, dtype=torch.float64), dim=-1
    )
    given_out = {"image_features": image, "text_features": text, "text_negative": negative}
    got = build_loss("neg-clip")({**given_out, "logit_scale": torch.tensor(5.0, dtype=torch.float64)})["loss"]
    torch.testing.assert_close(got, equation(image, text, negative, 5.0))


def test_a_negative_that_is_like_the_image_costs_more(example_out):
    out = example_out(build_loss("neg-clip").needs)
    like = build_loss("neg-clip")({**out, "text_negative": out["image_features"]})["loss"]
    unlike = build_loss("neg-clip")({**out, "text_negative": -out["image_features"]})["loss"]
    assert like > unlike + 1


def test_negatives_make_it_more_than_clips_loss(example_out):
    out = example_out(build_loss("neg-clip").needs)
    own = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    right = torch.arange(8)
    clip = (torch.nn.functional.cross_entropy(own, right) + torch.nn.functional.cross_entropy(own.T, right)) / 2
    assert build_loss("neg-clip")(out)["loss"] > clip + 1e-3


def test_gradients_by_differences():
    generator = torch.Generator().manual_seed(0)
    image, text, negative = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    loss, scale = build_loss("neg-clip"), torch.tensor(2.0, dtype=torch.float64)

    def value(image, text, negative, scale):
        names = ("image_features", "text_features", "text_negative", "logit_scale")
        return loss(dict(zip(names, (image, text, negative, scale), strict=True)))["loss"]

    assert torch.autograd.gradcheck(value, [x.requires_grad_() for x in (image, text, negative, scale)])


def test_negatives_are_shared_by_the_whole_batch(example_out):
    """An image is told apart from every negative, so whose each is does not count."""
    out = example_out(build_loss("neg-clip").needs)
    other = {**out, "text_negative": out["text_negative"].flip(0)}
    torch.testing.assert_close(build_loss("neg-clip")(out)["loss"], build_loss("neg-clip")(other)["loss"])
    fewer = {**out, "text_negative": out["text_negative"][:1].expand(8, -1)}
    assert not torch.allclose(build_loss("neg-clip")(out)["loss"], build_loss("neg-clip")(fewer)["loss"])

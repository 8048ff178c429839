"""TripletCLIP beside the reference's numbers, and as two NegCLIP terms."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.caption_losses import triplet_clip

from vladapt import build_loss

NAMES = {
    "image_features": "image",
    "text_features": "text",
    "image_negative": "neg_image",
    "text_negative": "neg_text",
}


def test_value_and_gradients_are_the_references(agrees):
    agrees(triplet_clip)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_it_is_negclip_of_the_pair_and_of_the_negative_pair(seed, count):
    generator = torch.Generator().manual_seed(seed)
    image, text, negative_image, negative_text = torch.randn(4, count, 6, generator=generator, dtype=torch.float64)
    scale = torch.tensor(3.0, dtype=torch.float64)
    values = dict(zip(NAMES, (image, text, negative_image, negative_text), strict=True))
    got = build_loss("triplet-clip")({**values, "logit_scale": scale})

    def neg_clip(image, text, negative):
        out = {"image_features": image, "text_features": text, "text_negative": negative, "logit_scale": scale}
        return build_loss("neg-clip")(out)["loss"]

    torch.testing.assert_close(got["positives"], neg_clip(image, text, negative_text))
    torch.testing.assert_close(got["negatives"], neg_clip(negative_image, negative_text, text))
    torch.testing.assert_close(got["loss"], got["positives"] + got["negatives"])


def test_pair_and_negative_pair_may_be_exchanged(example_out):
    out = example_out(build_loss("triplet-clip").needs)
    exchanged = {
        "image_features": out["image_negative"],
        "text_features": out["text_negative"],
        "image_negative": out["image_features"],
        "text_negative": out["text_features"],
        "logit_scale": out["logit_scale"],
    }
    torch.testing.assert_close(build_loss("triplet-clip")(out)["loss"], build_loss("triplet-clip")(exchanged)["loss"])


def test_the_negative_images_term_counts(example_out):
    out = example_out(build_loss("triplet-clip").needs)
    out["image_negative"].requires_grad_()
    build_loss("triplet-clip")(out)["loss"].backward()
    assert out["image_negative"].grad.abs().max() > 1e-3

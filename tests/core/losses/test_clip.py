"""CLIP's loss, beside open_clip's."""

import pytest
import torch
from parity_checks.losses import clip

from vladapt import ConfigError, build_loss
from vladapt.core.losses import _info_nce


@pytest.mark.parametrize("entries", [30, 1 << 22])
def test_value_and_gradients_are_open_clips(agrees, entries, monkeypatch):
    monkeypatch.setattr(_info_nce, "ENTRIES", entries)
    agrees(clip)


def test_a_bias_is_added_and_cancels(example_out):
    out = example_out(build_loss("clip").needs)
    biased = {**out, "logit_bias": torch.tensor(-10.0, requires_grad=True)}
    loss = build_loss("clip")(biased)["loss"]
    torch.testing.assert_close(loss, build_loss("clip")(out)["loss"])
    loss.backward()
    assert abs(biased["logit_bias"].grad) < 1e-6


def test_image_and_text_are_alike_to_it(example_out):
    out = example_out(build_loss("clip").needs)
    swapped = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    for loss in (build_loss("clip"), build_loss("clip", label_smoothing=0.2)):
        torch.testing.assert_close(loss(out)["loss"], loss(swapped)["loss"])


def test_label_smoothing_is_that_of_cross_entropy(example_out):
    out = example_out(build_loss("clip").needs)
    logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    own = torch.arange(len(logits))
    both = [torch.nn.functional.cross_entropy(x, own, label_smoothing=0.1) for x in (logits, logits.T)]
    torch.testing.assert_close(build_loss("clip", label_smoothing=0.1)(out)["loss"], sum(both) / 2)
    assert abs(build_loss("clip")(out)["loss"] - sum(both) / 2) > 1e-3
    with pytest.raises(ConfigError, match="option label_smoothing=1 of loss 'clip' is not usable"):
        build_loss("clip", label_smoothing=1.0)


def test_a_compiled_loss_is_the_same(example_out):
    """Options are plain attributes, which torch.compile takes for constants."""
    out, loss = example_out(build_loss("clip").needs), build_loss("clip", label_smoothing="0.1")
    torch.testing.assert_close(torch.compile(loss, backend="eager")(out)["loss"], loss(out)["loss"])

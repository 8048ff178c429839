"""Self-distillation: the hidden states of a model that was trained further already."""

from __future__ import annotations

import pytest
import torch

from vladapt import CapabilityError, build_loss

DIMS = {"embed_dim": 24, "image_width": 20}


@pytest.fixture
def out(example_out):
    return example_out(build_loss("self-distill", DIMS).needs, 4)


def test_each_term_is_a_mean_of_squares_through_a_projection(out):
    loss = build_loss("self-distill", DIMS, image=3.0, text=0.5)
    values = loss(out)
    for name, now, before in (
        ("image", loss.image_map(out["image_hidden"]), out["teacher.image_hidden"]),
        ("text", loss.text_map(out["text_features"]), out["teacher.text"]),
    ):
        torch.testing.assert_close(values[name], ((now - before) ** 2).sum() / now.numel())
    torch.testing.assert_close(values["loss"], 3.0 * values["image"] + 0.5 * values["text"])


def test_a_projection_has_the_widths_of_both(example_out):
    loss = build_loss("self-distill", {**DIMS, "teacher_width": 7, "teacher_dim": 9})
    assert loss.image_map.weight.shape == (7, 20) and loss.text_map.weight.shape == (9, 24)


@pytest.mark.parametrize("term", ["image", "text"])
def test_a_term_alone_needs_only_its_own(out, term):
    loss = build_loss("self-distill", DIMS, **{name: float(name == term) for name in ("image", "text")})
    assert len(loss.needs) == 2 and set(loss({name: out[name] for name in loss.needs})) == {"loss", term}
    width = {"image": "image_width", "text": "embed_dim"}[term]
    with pytest.raises(CapabilityError, match=width):
        build_loss("self-distill", {name: size for name, size in DIMS.items() if name != width})

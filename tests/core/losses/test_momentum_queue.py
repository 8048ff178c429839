"""The momentum queue beside its equation, and how its queues move."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import CapabilityError, ConfigError, build_loss

NAMES = ("image_features", "text_features", "teacher.image", "teacher.text")


def by_hand(out, images, texts):
    """BriVL's two sums, a sample at a time."""
    scale, count = out["logit_scale"], len(out["image_features"])
    total = 0.0
    for queries, keys, queue in (("image_features", "teacher.text", texts), ("text_features", "teacher.image", images)):
        for i in range(count):
            own = (scale * out[queries][i] @ out[keys][i]).exp()
            others = sum((scale * out[queries][i] @ negative).exp() for negative in queue)
            total = total - (own / (own + others)).log() / (2 * count)
    return total


@pytest.fixture
def doubles(example_out):
    out = {
        name: value.double()
        for name, value in example_out(build_loss("momentum-queue", {"embed_dim": 24}).needs).items()
    }
    return {name: value.requires_grad_() for name, value in out.items()}


def test_value_and_gradients_are_the_equations(doubles):
    loss = build_loss("momentum-queue", {"embed_dim": 24}, queue_size=13).double()
    value = loss(doubles)["loss"]
    wanted = by_hand(doubles, loss.images.rows, loss.texts.rows)
    torch.testing.assert_close(value, wanted)
    learned = [doubles[name] for name in ("image_features", "text_features", "logit_scale")]
    for ours, theirs in zip(torch.autograd.grad(value, learned), torch.autograd.grad(wanted, learned)):
        torch.testing.assert_close(ours, theirs)


def test_the_batch_is_no_negative_of_itself(doubles):
    """With other samples in the batch, a sample's part stays what it is alone."""
    loss = build_loss("momentum-queue", {"embed_dim": 24}, queue_size=13).double()
    alone = [loss({n: v if n == "logit_scale" else v[i : i + 1] for n, v in doubles.items()})["loss"] for i in range(8)]
    torch.testing.assert_close(loss(doubles)["loss"], sum(alone) / 8)


def test_swapping_image_and_text_swaps_the_directions(doubles):
    loss = build_loss("momentum-queue", {"embed_dim": 24}, queue_size=13).double()
    value = loss(doubles)
    loss.images, loss.texts = loss.texts, loss.images
    swapped = dict(zip(("text_features", "image_features", "teacher.text", "teacher.image"), map(doubles.get, NAMES)))
    other = loss({**swapped, "logit_scale": doubles["logit_scale"]})
    torch.testing.assert_close(value["loss"], other["loss"])
    torch.testing.assert_close(value["image_to_text"], other["text_to_image"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 10))
def test_queues_hold_the_newest_keys_in_a_ring(batches, size):
    loss = build_loss("momentum-queue", {"embed_dim": 3}, queue_size=size)
    wanted, place = {"image": loss.images.rows.clone(), "text": loss.texts.rows.clone()}, 0
    for count in batches:
        out = {name: torch.nn.functional.normalize(torch.randn(count, 3), dim=1) for name in NAMES}
        loss({**out, "logit_scale": torch.tensor(2.0)})
        loss.after_step(None)
        for i in range(count):
            for kind, rows in wanted.items():
                rows[place] = out[f"teacher.{kind}"][i]
            place = (place + 1) % size
    assert torch.equal(loss.images.rows, wanted["image"]) and torch.equal(loss.texts.rows, wanted["text"])
    assert int(loss.images.pointer) == place


def test_keys_count_only_once_the_step_is_over(doubles):
    loss = build_loss("momentum-queue", {"embed_dim": 24}, queue_size=13).double()
    first = loss(doubles)["loss"]
    torch.testing.assert_close(loss(doubles)["loss"], first)
    loss.after_step(None)
    held = loss.texts.rows.clone()
    torch.testing.assert_close(held[:8], doubles["teacher.text"].detach())
    assert abs(loss(doubles)["loss"] - first) > 1e-3
    loss.after_step(None)
    loss.after_step(None)  # without a loss in between, nothing is put in twice
    assert int(loss.texts.pointer) == 16 % 13


def test_the_gradient_is_right_when_queues_move_before_it(doubles):
    loss = build_loss("momentum-queue", {"embed_dim": 24}, queue_size=13).double()
    wanted = torch.autograd.grad(by_hand(doubles, loss.images.rows, loss.texts.rows), doubles["image_features"])[0]
    value = loss(doubles)["loss"]
    loss.after_step(None)
    torch.testing.assert_close(torch.autograd.grad(value, doubles["image_features"])[0], wanted)


def test_options_are_the_released_ones_and_are_checked(dims):
    loss = build_loss("momentum-queue", dims)
    assert (len(loss.images.rows), loss.teacher, loss.teacher_momentum(0.0), loss.teacher_momentum(1.0)) == (
        9600,
        "ema",
        0.99,
        0.99,
    )
    torch.testing.assert_close(loss.texts.rows.norm(dim=1), torch.ones(9600))
    assert build_loss("momentum-queue", dims, momentum=0.5).teacher_momentum(0.5) == 0.5
    for option in ({"queue_size": 0}, {"momentum": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            build_loss("momentum-queue", dims, **option)
    with pytest.raises(CapabilityError, match="embed_dim"):
        build_loss("momentum-queue")


def test_more_negatives_raise_the_loss(example_out, dims):
    out = example_out(build_loss("momentum-queue", dims).needs)
    assert (
        build_loss("momentum-queue", dims, queue_size=500)(out)["loss"]
        > build_loss("momentum-queue", dims, queue_size=5)(out)["loss"]
    )

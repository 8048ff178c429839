"""DeCLIP: pairs, neighbours, SimSiam and hidden words."""

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import declip

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses._info_nce import info_nce
from vladapt.core.losses.momentum_queue import FeatureQueue

DIMS = {"embed_dim": 6, "text_width": 5, "vocab_size": 11}
SMALL = {"queue_size": 20, "projector_width": 8, "predictor_width": 4}
TERMS = ("clip", "nn_text", "simsiam", "masking_language")


def outputs(seed=0, batch=5, width=6):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    out = {
        name: F.normalize(draw(batch, width), dim=-1).requires_grad_()
        for name in ("image_features", "image_view2", "text_features", "text_view2")
    }
    hidden = torch.rand(batch, 4, generator=generator) < 0.5
    labels = torch.where(hidden, torch.randint(11, (batch, 4), generator=generator), -100)
    tokens = draw(batch, 4, 5).requires_grad_()
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    return {**out, "masked_tokens": tokens, "masked_labels": labels, "logit_scale": scale}


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_loss("declip", DIMS, **{**SMALL, **options}).double()


def only(term):
    return {name: float(name == term) for name in TERMS}


def test_neighbours_and_the_queue_agree_with_the_released_code(agrees):
    agrees(declip)


def test_the_queue_wraps_where_the_released_one_drops(references):
    for ref in references(declip):
        size, rows = ref["bank"].shape[1], ref["text"]
        queue = FeatureQueue(size, rows.shape[1])
        queue.rows.copy_(ref["bank"].T)
        queue.pointer.fill_(size - 3)
        queue.push(rows)
        torch.testing.assert_close(queue.rows[size - 3 :], rows[:3])
        torch.testing.assert_close(queue.rows[: len(rows) - 3], rows[3:])  # the released code loses these
        kept = slice(len(rows) - 3, size - 3)
        torch.testing.assert_close(queue.rows[kept], ref["bank"].T[kept])
        assert queue.pointer == len(rows) - 3


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_the_queue_holds_the_newest_rows(size, pushes):
    queue, newest, count = FeatureQueue(size, 1), deque(maxlen=size), 0
    for length in pushes:
        rows = torch.arange(count, count + length, dtype=torch.float32)[:, None]
        count += length
        queue.push(rows)
        newest.extend(rows[:, 0].tolist())
    held = queue.rows.roll(-int(queue.pointer), 0)[-len(newest) :, 0]  # the oldest first
    assert held.tolist() == list(newest)


def test_each_term_by_hand():
    out, loss = outputs(1), small(neighbours=2)
    parts = loss(out)
    i1, i2, t1, t2 = (out[n] for n in ("image_features", "image_view2", "text_features", "text_view2"))
    scale, rows = out["logit_scale"], loss.queue.rows
    pairs = sum(info_nce(image, text, scale) for image in (i1, i2) for text in (t1, t2)) / 4
    torch.testing.assert_close(parts["clip"], pairs)
    total = 0.0
    for image in (i1, i2):
        for text in (t1, t2):
            order = [sorted(range(20), key=lambda k, r=row: -(r @ rows[k]).item()) for row in text]
            for rank in range(2):
                near = torch.stack([rows[best[rank]] for best in order])
                total = total + F.cross_entropy(scale * image @ near.T, torch.arange(5))
    torch.testing.assert_close(parts["nn_text"], total / 8)
    z1, z2 = loss.projector(i1), loss.projector(i2)
    p1, p2 = loss.predictor(z1), loss.predictor(z2)
    agree = [F.cosine_similarity(p1[i], z2[i], 0) + F.cosine_similarity(p2[i], z1[i], 0) for i in range(5)]
    torch.testing.assert_close(parts["simsiam"], -sum(agree) / 10)
    asked = out["masked_labels"] != -100
    words = F.cross_entropy(loss.words(out["masked_tokens"][asked]), out["masked_labels"][asked])
    torch.testing.assert_close(parts["masking_language"], words)
    whole = 0.4 * pairs + 0.2 * (parts["nn_text"] + parts["simsiam"] + words)
    torch.testing.assert_close(parts["loss"], whole)


def test_simsiam_stops_the_gradient_at_its_targets():
    out, loss = outputs(2), small(**only("simsiam"))
    (ours,) = torch.autograd.grad(loss(out)["loss"], out["image_features"])
    z1, z2 = loss.projector(out["image_features"]), loss.projector(out["image_view2"])

    def distance(predicted, target):
        return -F.cosine_similarity(predicted, target).mean() / 2

    p1, p2 = loss.predictor(z1), loss.predictor(z2)
    stopped = distance(p1, z2.detach()) + distance(p2, z1.detach())
    leaking = distance(p1, z2) + distance(p2, z1)
    wanted, wrong = (
        torch.autograd.grad(value, out["image_features"], retain_graph=True)[0] for value in (stopped, leaking)
    )
    torch.testing.assert_close(ours, wanted)
    assert (ours - wrong).abs().max() > 1e-4


def test_simsiam_heads_are_the_published_ones():
    loss = build_loss("declip", DIMS, **only("simsiam"))
    shapes = [tuple(p.shape) for head in (loss.projector, loss.predictor) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(1024, 6), (1024, 1024), (1024, 1024), (512, 1024), (1024, 512)]
    assert [type(layer).__name__ for layer in loss.projector][-2:] == ["Linear", "BatchNorm1d"]
    assert [type(layer).__name__ for layer in loss.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_a_batch_without_hidden_words_adds_nothing():
    out, loss = outputs(3), small(**only("masking_language"))
    out["masked_labels"] = torch.full_like(out["masked_labels"], -100)
    value = loss(out)["loss"]
    value.backward()
    assert value == 0 and torch.isfinite(loss.words.weight.grad).all() and out["masked_tokens"].grad.abs().max() == 0


def test_the_queue_moves_once_a_step_second_texts_first():
    out, loss = outputs(4), small()
    before = loss.queue.rows.clone()
    loss(out)
    loss(out)
    assert torch.equal(loss.queue.rows, before)
    loss.after_step(None)
    torch.testing.assert_close(loss.queue.rows[:10], torch.cat([out["text_view2"], out["text_features"]]).detach())
    assert torch.equal(loss.queue.rows[10:], before[10:]) and loss.queue.pointer == 10
    after = loss.queue.rows.clone()
    loss.after_step(None)
    assert torch.equal(loss.queue.rows, after)


@pytest.mark.parametrize(
    ("term", "needs"),
    [
        ("clip", {"image_features", "image_view2", "text_features", "text_view2", "logit_scale"}),
        ("nn_text", {"image_features", "image_view2", "text_features", "text_view2", "logit_scale"}),
        ("simsiam", {"image_features", "image_view2"}),
        ("masking_language", {"masked_tokens", "masked_labels"}),
    ],
)
def test_a_term_alone_needs_only_its_own(term, needs):
    loss = small(**only(term))
    assert loss.needs == needs
    parts = loss({name: outputs(5)[name] for name in needs})
    assert set(parts) == {"loss", term}
    assert bool(list(loss.buffers(recurse=True))) == (term in ("nn_text", "simsiam"))


@pytest.mark.parametrize(
    "other",
    [{term: 0.9} for term in TERMS]
    + [{"queue_size": 7}, {"neighbours": 3}, {"projector_width": 5}, {"predictor_width": 9}],
)
def test_each_option_changes_the_result(other):
    assert abs(small()(outputs(6))["loss"] - small(**other)(outputs(6))["loss"]) > 1e-5


@pytest.mark.parametrize(
    "option", [{"clip": -1}, {"queue_size": 0}, {"neighbours": 21}, {"projector_width": 0}, {"predictor_width": 0}]
)
def test_unusable_options_are_named(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        small(**option)


@pytest.mark.parametrize("missing", sorted(DIMS))
def test_it_says_which_width_it_lacks(missing):
    with pytest.raises(CapabilityError, match=missing):
        build_loss("declip", {name: width for name, width in DIMS.items() if name != missing}, **SMALL)

"""CTP beside the released code: its terms, its compatible teacher, and what it preserves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks.continual import ctp, ctp_loss, ctp_step

from vladapt import CapabilityError, build_loss
from vladapt.core.losses.ctp import NEEDS, TOPOLOGY

DIMS = {"embed_dim": 24, "image_width": 20, "text_width": 16, "vocab_size": 50}


def small(**options):
    torch.manual_seed(0)
    return build_loss("ctp", DIMS, **{"queue_size": 12, **options})


@pytest.fixture
def out(example_out):
    return example_out(small().needs, 3, small().outputs)


def test_agrees_with_the_released_code(agrees):
    agrees(ctp)


@pytest.mark.parametrize("other", [{"compatible": 0.0}, {"momentum": 0.5}, {"momentum": 0.0, "compatible": 1.0}])
def test_the_fixture_sees_another_teacher(references, other):
    for ref in references(ctp):
        _, _, ours = ctp_step(ref, ctp_loss(ref, first=False))
        _, _, changed = ctp_step(ref, ctp_loss(ref, first=False, **other))
        assert (ours["teacher.image"] - changed["teacher.image"]).abs().max() > 1e-3
        if other.get("compatible") == 1.0:  # it is the reference then
            torch.testing.assert_close(changed["teacher.image"], changed["reference.image"])


@pytest.mark.parametrize("same", [False, True])
def test_the_topology_by_loops(out, same):
    total, sides = 0.0, (("image", "text"), ("text", "image"))
    for rows, columns in [(side, side) for side, _ in sides] if same else sides:
        now = out[f"{rows}_features"] @ out[f"{columns}_features"].T / 0.07
        before = out[f"reference.{rows}"] @ out[f"reference.{columns}"].T / 0.07
        for i in range(len(now)):
            others = [j for j in range(len(now)) if not (same and i == j)]
            p, q = before[i, others].softmax(0), now[i, others].softmax(0)
            total = total + sum(p[k] * (p[k] / q[k]).log() for k in range(len(others))) / len(now) / 2
    values = small()(out)
    torch.testing.assert_close(values["same" if same else "cross"], total)


def test_towers_that_stay_keep_their_topology(out):
    still = {**out, "image_features": out["reference.image"], "text_features": out["reference.text"]}
    values = small()(still)
    assert max(abs(float(values[name])) for name in TOPOLOGY) < 1e-5
    assert min(float(small()(out)[name]) for name in TOPOLOGY) > 0.01


def test_the_first_set_has_nothing_to_preserve():
    loss = small(first=True)
    assert not loss.outputs and not any(name.startswith("reference") for name in loss.needs)
    assert loss.teacher_anchor(0.0) is None and loss.teacher_momentum(0.0) == 0.995
    assert small().teacher_momentum(0.0) == pytest.approx(0.95)


@pytest.mark.parametrize("term", sorted(NEEDS))
def test_a_term_alone_needs_only_its_own(out, term):
    loss = small(**{name: float(name == term) for name in NEEDS})
    assert loss.needs == NEEDS[term]
    assert set(loss({name: out[name] for name in loss.needs})) == {"loss", term}


@pytest.mark.parametrize("term", sorted(NEEDS))
def test_the_loss_is_the_weighted_sum(out, term):
    whole, twice = small()(out), small(**{term: 2.0})(out)
    torch.testing.assert_close(twice["loss"] - whole["loss"], whole[term], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [{"temperature": 0.2}, {"queue_size": 5}, {"first": True}])
def test_further_options_change_the_loss(out, other):
    assert abs(small()(out)["loss"] - small(**other)(out)["loss"]) > 1e-4


def test_it_names_the_width_that_it_lacks():
    for missing in DIMS:
        with pytest.raises(CapabilityError, match=missing):
            build_loss("ctp", {name: width for name, width in DIMS.items() if name != missing})


def test_soft_words_are_a_cross_entropy_to_the_teachers(out):
    loss = small()
    torch.nn.init.normal_(loss.teacher_head.words.weight)
    asked = out["masked_labels"] >= 0
    scores = loss.head.words(out["masked_tokens"] + loss.head.image(out["image_hidden"])[:, None])[asked]
    named = loss.teacher_head.words(
        out["teacher.masked_tokens"] + loss.teacher_head.image(out["teacher.image_hidden"])[:, None]
    )[asked]
    values = loss(out)
    torch.testing.assert_close(values["soft_words"], F.cross_entropy(scores, named.softmax(1)))
    torch.testing.assert_close(values["words"], F.cross_entropy(scores, out["masked_labels"][asked]))


def test_the_teachers_head_moves_as_its_towers(out):
    loss = small()
    start = [p.clone() for p in loss.reference_head.parameters()]
    with torch.no_grad():
        for parameter in loss.head.parameters():
            parameter += 1
        for parameter in loss.teacher_head.parameters():
            parameter -= 1
    loss.after_step(None)
    for average, trained, earlier in zip(loss.teacher_head.parameters(), loss.head.parameters(), start):
        torch.testing.assert_close(average, 0.9 * (earlier - 1) + 0.05 * trained + 0.05 * earlier)

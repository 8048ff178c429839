"""Learning without forgetting: the answers of the towers before a training, softened."""

from __future__ import annotations

import pytest
import torch
from parity_checks.continual import lwf

from vladapt import CapabilityError, build_loss


@pytest.fixture
def out(example_out):
    return example_out(build_loss("lwf").needs, 5)


def divergence(now, before):
    """Row by row: sum of p log(p / q), p of the towers before."""
    total = 0.0
    for i in range(len(now)):
        p, q = before[i].softmax(0), now[i].softmax(0)
        total = total + sum(p[j] * (p[j] / q[j]).log() for j in range(len(p)))
    return total / len(now)


@pytest.mark.parametrize("temperature", [None, 5.0])
def test_answers_are_similarities_by_loops(out, temperature):
    softened = temperature or 2.0
    now = out["logit_scale"] * out["image_features"] @ out["text_features"].T / softened
    before = out["teacher.logit_scale"] * out["teacher.image"] @ out["teacher.text"].T / softened
    values = build_loss("lwf", temperature=temperature)(out)
    torch.testing.assert_close(values["image"], divergence(now, before))
    torch.testing.assert_close(values["text"], divergence(now.T, before.T))
    torch.testing.assert_close(values["loss"], (values["image"] + values["text"]) / 2)


def test_embeddings_agree_with_the_released_code(agrees):
    agrees(lwf)


def test_it_distils_what_it_is_told(example_out):
    loss = build_loss("lwf", distils="embeddings")
    assert loss.needs == {"image_embedding", "text_embedding", *loss.outputs}
    out = example_out(loss.needs, 2, loss.outputs)
    again = {**out, **{f"teacher.{name}": rows for name, rows in out.items() if not name.startswith("teacher.")}}
    assert float(loss(again)["loss"]) == pytest.approx(0.0, abs=1e-6) and float(loss(out)["loss"]) > 0.1


def test_the_direction_is_from_the_towers_before(out):
    swapped = {"teacher.image": out["image_features"], "teacher.text": out["text_features"]}
    swapped |= {"image_features": out["teacher.image"], "text_features": out["teacher.text"]}
    swapped |= {"logit_scale": out["teacher.logit_scale"], "teacher.logit_scale": out["logit_scale"]}
    assert abs(build_loss("lwf")(out)["loss"] - build_loss("lwf")(swapped)["loss"]) > 1e-4


def test_embeddings_of_other_widths_are_refused():
    dims = {"embed_dim": 8, "teacher_dim": 4}
    build_loss("lwf", dims)
    with pytest.raises(CapabilityError, match="width 8 with a teacher's of 4"):
        build_loss("lwf", dims, distils="embeddings")

"""The anchor of CLIPFit on the text features of the classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt import build_loss
from vladapt.core.training.objective import build_objective


def test_it_agrees_with_clipfit(reference):
    known, check = reference("loss_clipfit")
    text = known["text_features"].clone().requires_grad_()
    unit = F.normalize(text, dim=-1)
    out = {
        "class_features": unit,
        "teacher.class_features": F.normalize(known["frozen_text_features"], dim=-1),
        "logits": 30.0 * known["image_features"] @ unit.T,
        "labels": known["labels"],
    }
    objective = build_objective({"cross-entropy": 1.0, "text-anchor": 8.0}, {})
    values = objective(out)
    values["loss"].backward()
    check(values["text-anchor"], "similarity_term")
    check(values["loss"].detach(), "loss")
    check(text.grad, "grad_text")


def test_it_is_nothing_at_the_start_and_one_at_right_angles():
    loss = build_loss("text-anchor")
    rows = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    assert float(loss({"class_features": rows, "teacher.class_features": rows})["loss"]) == pytest.approx(0, abs=1e-12)
    axes = torch.eye(4, 6)
    out = {"class_features": axes, "teacher.class_features": axes.roll(1, dims=1)}
    assert float(loss(out)["loss"]) == pytest.approx(1)
    out = {"class_features": torch.cat([axes[:2], -axes[2:]]), "teacher.class_features": axes}
    assert float(loss(out)["loss"]) == pytest.approx(1)  # two at 0, two at 2

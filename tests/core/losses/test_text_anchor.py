"""The anchor of CLIPFit on the text features of the classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks.losses import text_anchor

from vladapt import build_loss


def test_it_agrees_with_clipfit(agrees):
    agrees(text_anchor)


def test_it_is_nothing_at_the_start_and_one_at_right_angles():
    loss = build_loss("text-anchor")
    rows = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1)
    assert float(loss({"class_features": rows, "teacher.class_features": rows})["loss"]) == pytest.approx(0, abs=1e-12)
    axes = torch.eye(4, 6)
    out = {"class_features": axes, "teacher.class_features": axes.roll(1, dims=1)}
    assert float(loss(out)["loss"]) == pytest.approx(1)
    out = {"class_features": torch.cat([axes[:2], -axes[2:]]), "teacher.class_features": axes}
    assert float(loss(out)["loss"]) == pytest.approx(1)  # two at 0, two at 2

"""Losses of pixels: two processes learn what one learns of the whole batch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.domains.remote_sensing import pixel_training
from vladapt.domains.remote_sensing.modules.segmentors.change_segmentor import change_dice, weighted_cross_entropy
from vladapt.domains.remote_sensing.modules.segmentors.pixel_regressor import valid_mean

WEIGHTS = torch.tensor([1.0, 4.0])
LOSSES = {
    "cross-entropy": lambda scores, labels: weighted_cross_entropy(scores, labels, WEIGHTS),
    "dice": change_dice,
    "numbers": lambda scores, labels: valid_mean(scores[:, 0].square(), labels != 255),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_gradient_of_two_processes_is_that_of_one(name, monkeypatch):
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 2, 6, 6, generator=random, requires_grad=True)
    labels = (torch.rand(4, 6, 6, generator=random) < 0.3).long()
    labels[:2, :4] = 255  # the first process has fewer pixels
    whole = LOSSES[name](scores, labels)
    (expected,) = torch.autograd.grad(whole, scores)
    halves, sent = ((scores[:2], labels[:2]), (scores[2:], labels[2:])), []

    monkeypatch.setattr(pixel_training, "get_world_size", lambda: 2)
    monkeypatch.setattr(pixel_training, "all_reduce", lambda part: sent.append(part.clone()))
    for half in halves:
        LOSSES[name](*half)
    total = sum(sent)
    monkeypatch.setattr(pixel_training, "all_reduce", lambda part: part.copy_(total))
    losses = [LOSSES[name](*half) for half in halves]
    (made,) = torch.autograd.grad(sum(losses) / 2, scores)
    assert all(torch.allclose(loss, whole) for loss in losses) and torch.allclose(made, expected, atol=1e-7)

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.head import taskres

from vladapt.core.contracts import TextClassifier
from vladapt.core.registry import build_adapter


def fitted(task, *, seed=0, resources=None, **options):
    adapter = build_adapter("taskres", **options)
    adapter.report = adapter.fit(task.support, task.text, seed=seed, resources=resources)
    return adapter


def with_lengths(text: TextClassifier, seed=0) -> TextClassifier:
    """The same directions with text features 4 to 12 long."""
    lengths = 4 + 8 * torch.rand(len(text), 1, generator=torch.Generator().manual_seed(seed))
    return replace(text, unnormalized=lengths * text.weights)


def test_agrees_with_the_reference_forward_and_gradients(agrees):
    agrees(taskres)


def test_training_is_the_published_loop_written_out(make_task):
    """Adam with decay in the gradient by hand, warm-up, cosine, dropped last batch, lengths of the text kept."""
    task = make_task(shots=4)
    task = replace(task, text=with_lengths(task.text))
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(3)])
    options = {"epochs": 3, "batch_size": 8, "lr": 0.05, "weight_decay": 0.3}
    ours = fitted(task, resources={"batch_order": order}, **options)

    r, first, second, step = torch.zeros(5, 16, requires_grad=True), torch.zeros(5, 16), torch.zeros(5, 16), 0
    for epoch in range(3):
        lr = 1e-5 if epoch == 0 else 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 3))
        for rows in (order[epoch, :8], order[epoch, 8:16]):  # 20 = 8 + 8 + 4 dropped
            text = F.normalize(task.text.unnormalized + 0.5 * r, dim=-1)
            loss = F.cross_entropy(100 * task.support.unit[rows] @ text.T, task.support.labels[rows])
            gradient = torch.autograd.grad(loss, r)[0] + 0.3 * r.detach()
            step += 1
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            r = (r.detach() - lr * moved).requires_grad_()
    torch.testing.assert_close(ours.residual, r.detach(), atol=1e-4, rtol=1e-3)
    assert ours.residual.abs().max() > 0.05
    assert [h["lr"] for h in ours.report.history] == pytest.approx([1e-5, 0.05, 0.0375])


@pytest.mark.parametrize("shots, epochs", [(1, 100), (4, 100), (8, 200)])
def test_epochs_are_the_published_ones_for_the_shots(make_task, shots, epochs):
    report = fitted(make_task(classes=2, shots=[1, shots], dim=4)).report
    assert len(report.history) == report.chosen["epochs"] == epochs
    assert report.chosen_on == f"published settings for {shots} shots" and report.chosen["alpha"] == 0.5


def test_two_sets_have_settings_of_their_own(make_task):
    task = make_task()
    assert build_adapter("taskres", preset="Flowers102").alpha_ == 1.0
    assert build_adapter("taskres", preset="Flowers102", alpha=0.2).alpha_ == 0.2
    imagenet, other = (fitted(task, preset=name, epochs=3) for name in ("imagenet", "dtd"))
    peaks = [max(row["lr"] for row in each.report.history) for each in (imagenet, other)]
    assert peaks == pytest.approx([2e-4, 2e-3])


def test_alpha_0_is_zero_shot(make_task):
    task = make_task()
    torch.testing.assert_close(fitted(task, alpha=0.0, lr=1.0).logits(task.test), task.text.logits(task.test.unit))


def test_the_lengths_of_the_text_count(make_task):
    """A short row is turned further by the same step."""
    task = make_task(shots=8)
    lengths = torch.tensor([1.0, 100.0, 100.0, 100.0, 100.0])[:, None]
    text = replace(task.text, unnormalized=lengths * task.text.weights)
    adapter = fitted(replace(task, text=text), epochs=20)
    rows = F.normalize(adapter.base + 0.5 * adapter.residual, dim=-1)
    turned = 1 - (rows * text.weights).sum(dim=-1)
    assert turned[0] > 100 * turned[1:].max()
    assert not any("lengths" in note for note in adapter.report.notes)


@pytest.mark.parametrize("unnormalized", [None, "unit"])
def test_text_without_lengths_is_brought_to_about_clips(make_task, unnormalized):
    task = make_task()
    text = task.text if unnormalized is None else replace(task.text, unnormalized=0.9 * task.text.weights)
    adapter = fitted(replace(task, text=text), epochs=1)
    torch.testing.assert_close(adapter.base, 10 * task.text.weights)
    assert "without their lengths; each was scaled to length 10" in adapter.report.notes[-1]

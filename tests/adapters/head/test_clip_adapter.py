from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from parity_checks.head import clip_adapter as clip_adapter_parity

from vladapt.adapters.head import clip_adapter
from vladapt.adapters.head.clip_adapter import RATIOS, adapt
from vladapt.core.metrics.classification import val_score
from vladapt.core.registry import build_adapter


def fitted(task, *, val=None, seed=0, resources=None, **options):
    adapter = build_adapter("clip-adapter", **options)
    adapter.report = adapter.fit(task.support, task.text, val=val, seed=seed, resources=resources)
    return adapter


def test_agrees_with_the_reference_forward_and_gradients(agrees):
    agrees(clip_adapter_parity)


def test_training_is_the_published_loop_written_out(make_task):
    """CoOp's recipe by hand on raw features: torch's init, momentum, decay, warm-up, cosine, dropped last batch."""
    task = make_task(shots=4, dim=16)  # 20 images: 8 + 8 + 4 dropped
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(3)])
    ours = fitted(task, seed=5, epochs=3, batch_size=8, lr=0.05, resources={"batch_order": order})

    generator = torch.Generator().manual_seed(5)
    weights = [torch.empty(4, 16), torch.empty(16, 4)]
    for weight in weights:
        bound = 1 / math.sqrt(weight.shape[1])
        weight.uniform_(-bound, bound, generator=generator).requires_grad_()
    velocity, losses = [torch.zeros_like(w) for w in weights], []
    for epoch in range(3):
        lr = 1e-5 if epoch == 0 else 0.05 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 3))
        for rows in (order[epoch, :8], order[epoch, 8:16]):
            f = task.support.features[rows]
            blend = 0.2 * F.relu(F.relu(f @ weights[0].T) @ weights[1].T) + 0.8 * f
            loss = F.cross_entropy(100 * F.normalize(blend, dim=-1) @ task.text.weights.T, task.support.labels[rows])
            gradients = torch.autograd.grad(loss, weights)
            velocity = [0.9 * v + g + 5e-4 * w.detach() for v, g, w in zip(velocity, gradients, weights)]
            weights = [(w.detach() - lr * v).requires_grad_() for w, v in zip(weights, velocity)]
            losses.append(loss.item())
    torch.testing.assert_close(ours.down, weights[0].detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.up, weights[1].detach(), atol=1e-5, rtol=1e-4)
    means = [sum(losses[i : i + 2]) / 2 for i in (0, 2, 4)]
    assert [h["loss"] for h in ours.report.history] == pytest.approx(means, rel=1e-4)
    assert [h["lr"] for h in ours.report.history] == pytest.approx([1e-5, 0.05, 0.0375])


@pytest.mark.parametrize("shots, epochs", [(1, 50), (2, 100), (4, 100), (8, 200)])
def test_epochs_are_the_published_ones_for_the_shots(make_task, shots, epochs):
    adapter = fitted(make_task(classes=2, shots=[1, shots], dim=4))
    assert len(adapter.report.history) == adapter.report.chosen["epochs"] == epochs
    assert adapter.report.chosen_on == f"published settings for {shots} shots"


def test_a_ratio_of_0_is_zero_shot(make_task):
    task = make_task()
    adapter = fitted(task, ratio=0.0, epochs=5, lr=0.1)
    torch.testing.assert_close(adapter.logits(task.test), task.text.logits(task.test.unit))


def test_a_ratio_of_1_forgets_the_feature(make_task):
    task = make_task()
    adapter = fitted(task, ratio=1.0, epochs=2)
    made = F.normalize(F.relu(F.relu(task.test.unit @ adapter.down.T) @ adapter.up.T), dim=-1)
    torch.testing.assert_close(adapter.logits(task.test), 100 * made @ task.text.weights.T)


@given(scale=st.floats(0.01, 1000))
def test_the_length_of_a_feature_changes_nothing(scale):
    generator = torch.Generator().manual_seed(0)
    down, up, f = (torch.randn(*s, generator=generator) for s in ((4, 16), (16, 4), (6, 16)))
    torch.testing.assert_close(adapt(scale * f, down, up, 0.3), adapt(f, down, up, 0.3), atol=1e-5, rtol=1e-4)


def test_features_without_norms_train_the_same_head(make_task):
    task = make_task()
    unit = replace(task, support=replace(task.support, features=task.support.unit, raw_norms=False))
    torch.testing.assert_close(fitted(task, epochs=5).logits(task.test), fitted(unit, epochs=5).logits(task.test))


@pytest.fixture(scope="module")
def searching(make_task):
    """Text says little, so that a large ratio is the best one."""
    return make_task(shots=8, text_noise=3.0, noise=1.0, dim=24)


def test_the_ratio_is_the_best_on_val(searching):
    options = {"epochs": 20, "lr": 0.005, "batch_size": 8}
    report = fitted(searching, val=searching.val, ratio=None, **options).report
    scores = [
        val_score(fitted(searching, ratio=r, **options).logits(searching.val), searching.val.labels) for r in RATIOS
    ]
    assert report.chosen["ratio"] == RATIOS[scores.index(max(scores))] > 0.2
    assert report.val_score == max(scores) > scores[0] and report.chosen_on == "val (30 images)"


def test_heads_side_by_side_are_the_heads_one_by_one(searching):
    options = {"epochs": 10, "lr": 0.05, "batch_size": 8, "seed": 2}
    searched = fitted(searching, val=searching.val, ratio=None, **options)
    alone = fitted(searching, ratio=searched.ratio_, **options)
    torch.testing.assert_close(searched.logits(searching.test), alone.logits(searching.test), atol=1e-3, rtol=1e-4)
    assert [h["loss"] for h in searched.report.history] == pytest.approx(
        [h["loss"] for h in alone.report.history], rel=1e-3
    )


def test_a_tie_keeps_the_smallest_ratio(make_task):
    task = make_task(text_noise=0.0, noise=0.01)
    for ties, ratio in (("published", 0.0), ("plateau", 0.4)):
        assert fitted(task, val=task.val, ratio=None, epochs=2, ties=ties).report.chosen["ratio"] == ratio


def test_without_val_a_part_is_held_out_and_all_are_trained_on_then(searching, monkeypatch):
    seen, original = [], clip_adapter.dassl_epochs

    def spy(optimizer, support, *args, **options):
        seen.append(len(support))
        return original(optimizer, support, *args, **options)

    monkeypatch.setattr(clip_adapter, "dassl_epochs", spy)
    adapter = fitted(searching, ratio=None, epochs=5, lr=0.05)
    assert seen == [30, 40]
    assert adapter.report.chosen_on == "10 images held out of the support"
    assert [h["refit"] for h in adapter.report.history] == [0] * 5 + [1] * 5
    alone = fitted(searching, ratio=adapter.ratio_, epochs=5, lr=0.05)
    torch.testing.assert_close(adapter.logits(searching.test), alone.logits(searching.test))


def test_a_given_order_of_the_whole_support_is_that_of_the_last_training(searching):
    order = {"batch_order": torch.arange(40).flip(0).repeat(3, 1)}
    options = {"epochs": 3, "lr": 0.05, "batch_size": 8, "resources": order}
    adapter = fitted(searching, ratio=None, **options)
    alone = fitted(searching, ratio=adapter.ratio_, **options)
    torch.testing.assert_close(adapter.logits(searching.test), alone.logits(searching.test))
    assert adapter.ratio_ > 0


def test_with_too_few_shots_to_search_the_ratio_is_the_published_one(make_task):
    report = fitted(make_task(shots=2), ratio=None, epochs=1).report
    assert report.chosen["ratio"] == 0.2 and report.chosen_on.startswith("defaults") and report.val_score is None

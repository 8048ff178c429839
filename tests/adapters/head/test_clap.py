from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.head import clap_loss, clap_training

from vladapt.adapters.head import clap
from vladapt.adapters.head.clap import class_confidence, training_rows
from vladapt.core.errors import ConfigError
from vladapt.core.registry import build_adapter

NEAR = {"rtol": 1e-4, "atol": 1e-5}
QUICK = {"epochs": 5, "batch_size": 8}


def fitted(task, *, seed=0, resources=None, **options):
    adapter = build_adapter("clap", **options)
    adapter.report = adapter.fit(task.support, task.text, seed=seed, resources=resources)
    return adapter


@pytest.mark.parametrize("comparison", [clap_loss, clap_training], ids=["loss and gradient", "training"])
def test_agrees_with_the_reference(agrees, comparison):
    """The training at the fixture's rates, which are not Dassl's, with so many batches an epoch as it says."""
    agrees(comparison)


def test_zero_shot_linear_probe_is_sgd_on_renormalised_prototypes(make_task):
    task = make_task(shots=4)
    task = replace(task, text=replace(task.text, unnormalized=6 * task.text.weights))
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(3)])
    ours = fitted(task, constraint="none", epochs=3, batch_size=8, resources={"batch_order": order})
    w, velocity = 6 * task.text.weights, torch.zeros(5, 16)
    for epoch, lr in enumerate((1e-5, 0.1, 0.075)):
        for rows in (order[epoch, :8], order[epoch, 8:16]):  # 20 // 8 batches
            w = w.detach().requires_grad_()
            logits = 100 * task.support.unit[rows] @ F.normalize(w, dim=-1).T
            loss = F.cross_entropy(logits, task.support.labels[rows])
            velocity = 0.9 * velocity + torch.autograd.grad(loss, w)[0]
            w = w - lr * velocity
    torch.testing.assert_close(ours.prototypes, w.detach(), **NEAR)


@pytest.mark.parametrize("images, batch_size, batches, sizes", [
    (20, 8, None, [8, 8]), (20, 16, None, [16]), (20, 256, None, [60]), (20, 32, None, [32]), (20, 8, 5, [8] * 5),
])  # fmt: skip
def test_an_epoch_has_as_many_batches_as_the_images_make(make_task, monkeypatch, images, batch_size, batches, sizes):
    """20 images of 3 views: 60 rows, of which 20 // batch_size batches are taken, or one."""
    seen, original = [], clap.train_epochs

    def spy(optimizer, rates, batches, loss_of):
        def told(epoch, index):
            seen.append(len(index))
            return loss_of(epoch, index)

        return original(optimizer, rates, batches, told)

    monkeypatch.setattr(clap, "train_epochs", spy)
    fitted(make_task(shots=images // 5, views=3), epochs=1, batch_size=batch_size, batches=batches)
    assert seen == sizes


def test_rows_are_the_views_one_after_the_other(make_task):
    support = make_task(shots=2, views=3).support
    unit, labels = training_rows(support, views=2)
    assert unit.shape == (20, 16)
    torch.testing.assert_close(unit[10 + 4], F.normalize(support.views[4, 1], dim=0))
    assert torch.equal(labels, support.labels.repeat(2))
    assert training_rows(support, views=0)[0].shape == (10, 16)


def test_confidence_is_the_mean_probability_of_the_own_class():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    p = logits.softmax(dim=-1)
    wanted = torch.tensor([(p[0, 0] + p[1, 0]) / 2, p[2, 1], 0.0])
    wanted[2] = wanted[:2].mean()  # no rows of its own
    torch.testing.assert_close(class_confidence(logits, torch.tensor([0, 0, 1])), wanted)
    several = torch.tensor([[1.0, 0.0, torch.nan], [1.0, torch.nan, torch.nan], [0.0, 1.0, 0.0]])
    q = logits.sigmoid()
    wanted = torch.tensor([(q[0, 0] + q[1, 0]) / 2, q[2, 1], 0.0])
    wanted[2] = wanted[:2].mean()
    torch.testing.assert_close(class_confidence(logits, several), wanted)
    assert torch.equal(class_confidence(logits, torch.zeros(3, 3)), torch.zeros(3))


def test_multipliers(make_task):
    task = make_task(text_noise=2.0)
    found = {name: fitted(task, multipliers=name, **QUICK).penalties for name in clap.MULTIPLIERS}
    own = class_confidence(task.text.logits(task.support.unit), task.support.labels)
    torch.testing.assert_close(found["zero-shot"], own)
    torch.testing.assert_close(found["corrected"], own * 5 / own.sum())
    torch.testing.assert_close(found["constant"], own.mean().expand(5))
    assert torch.equal(found["balanced"], torch.ones(5))
    random = fitted(task, init="random", **QUICK)
    torch.testing.assert_close(random.penalties, own)  # of the text, not of the random start


@pytest.mark.parametrize("constraint", ["l2", "cosine"])
def test_the_penalty_is_the_distance_from_the_text(make_task, constraint):
    """A huge multiplier holds every prototype; without one they move; a class that the text knows is held nearer."""
    task = make_task(shots=8, noise=1.5)
    adapter = fitted(task, constraint=constraint, **QUICK)
    base = 10 * task.text.weights
    distance = adapter._distance(base)
    wanted = (adapter.prototypes - base).square().sum(dim=-1)
    if constraint == "cosine":
        wanted = 1 - (F.normalize(adapter.prototypes, dim=-1) * task.text.weights).sum(dim=-1)
    torch.testing.assert_close(distance, wanted, rtol=1e-3, atol=1e-5)
    assert float(adapter._penalty(base)) == pytest.approx(float((adapter.penalties * wanted).mean()), rel=1e-3)


def test_the_constraint_holds_prototypes_near_the_text(make_task):
    task = make_task(shots=8, noise=1.5, text_noise=0.6)
    base = 10 * task.text.weights
    far = {c: fitted(task, constraint=c, epochs=50) for c in clap.CONSTRAINTS}
    moved = {c: (1 - F.cosine_similarity(a.prototypes, base, dim=-1)).mean() for c, a in far.items()}
    assert moved["l2"] < 0.8 * moved["none"] and moved["cosine"] < moved["none"]


@pytest.mark.parametrize("constraint", ["l2", "cosine"])
def test_the_outer_step_adds_the_distance_times_that_of_the_epoch_before(make_task, monkeypatch, constraint):
    """rho is 0 at first, so the first outer step leaves the multipliers as they were."""
    task, seen = make_task(shots=8, noise=1.5), []
    original = clap.Clap._outer_step
    monkeypatch.setattr(
        clap.Clap,
        "_outer_step",
        lambda self, base, rho: seen.append((self.penalties.clone(), original(self, base, rho))) or seen[-1][1],
    )
    adapter = fitted(task, constraint=constraint, adaptive=True, **{**QUICK, "epochs": 3})
    (first, h1), (second, h2), (third, h3) = seen
    assert torch.equal(first, second)
    torch.testing.assert_close(third, second + h1 * h2)
    torch.testing.assert_close(adapter.penalties, third + h2 * h3)
    assert adapter.report.history[-1]["multiplier"] == pytest.approx(float(adapter.penalties.mean()))


def test_random_prototypes_start_like_a_usual_linear_layer(make_task):
    task = make_task(classes=50, dim=64, shots=1)
    adapter = fitted(task, init="random", constraint="none", epochs=1, warmup="constant", lr=1e-9)
    assert float(adapter.prototypes.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    task = replace(task, text=replace(task.text, logit_scale=400.0))
    larger = fitted(task, init="random", constraint="none", epochs=1, warmup="constant", lr=1e-9)
    torch.testing.assert_close(larger.prototypes, 2 * adapter.prototypes, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("scale, length", [(100.0, 10.0), (400.0, 20.0)])
def test_text_without_lengths_is_brought_to_where_a_step_turns_it_as_clips(make_task, scale, length):
    task = make_task()
    task = replace(task, text=replace(task.text, logit_scale=scale))
    adapter = fitted(task, epochs=1)
    torch.testing.assert_close(adapter.prototypes, length * task.text.weights, atol=0.02, rtol=0.02)
    assert f"each was scaled to length {length:.0f}" in adapter.report.notes[-1]


def test_a_class_without_shots_keeps_its_text_and_the_mean_multiplier(make_task):
    task = make_task(shots=[4, 0, 4, 4, 4])
    adapter = fitted(task, epochs=20)
    others = torch.tensor([0, 2, 3, 4])
    assert float(adapter.penalties[1]) == pytest.approx(float(adapter.penalties[others].mean()), rel=1e-5)


@pytest.mark.parametrize("options", [{"multipliers": "balanced"}, {"adaptive": True}])
def test_options_without_effect_are_refused(options):
    with pytest.raises(ConfigError, match="has no penalty to weigh"):
        build_adapter("clap", constraint="none", **options)

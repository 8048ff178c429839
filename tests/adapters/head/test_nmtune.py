from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vladapt.adapters.head.nmtune import consistency, dominance, off_diagonal_covariance, without_single
from vladapt.core.contracts import TextClassifier
from vladapt.core.registry import build_adapter


def fitted(task, resources=None, seed=0, **options):
    adapter = build_adapter("nmtune", **{"epochs": 3, **options})
    adapter.report = adapter.fit(task.support, task.text, resources=resources, seed=seed)
    return adapter


class Published(nn.Module):
    """The network of torch's own layers, with weights drawn as nmtune draws them: in this order, from one generator."""

    def __init__(self, width, classes, ratio, seed=0):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.BatchNorm1d(ratio * width), nn.ReLU(), nn.Linear(ratio * width, width)
        )
        self.scale = nn.Parameter(torch.ones(1, width))
        self.head = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in (self.mlp[0], self.mlp[3]):
                for parameter in (layer.weight, layer.bias):
                    bound = layer.in_features**-0.5
                    parameter.copy_(bound * (2 * torch.rand(parameter.shape, generator=generator) - 1))
            head = torch.rand(self.head.weight.shape, generator=generator)
            self.head.weight.copy_(math.sqrt(6 / width) * (2 * head - 1))
            self.head.bias.zero_()

    def forward(self, features):
        return self.scale * self.mlp(features) + features


def published_loss(model, weak, strong, labels, mse=1.0, cov=0.04, svd=0.001):
    """Term by term as published, the covariance as a D x D matrix and the singular values by a full SVD."""
    z = model(torch.cat([weak, strong]))
    d = z.shape[1]
    loss = F.cross_entropy(model.head(z), torch.cat([labels, labels]))
    loss = loss + mse * ((F.normalize(z[len(weak) :]) - F.normalize(weak)) ** 2).mean()
    covariance = z.T.cov()
    loss = loss + cov * covariance[~torch.eye(d, dtype=torch.bool)].square().sum() / d
    s = torch.linalg.svd(z, full_matrices=False).S
    return loss - svd * (s / s.sum())[:5].mean()


def published_training(task, order, *, lr=1e-3, decay=1e-4, batch_size=64, ratio=4, views=10, **weights):
    """The loop with torch's own AdamW; the cosine's rate is set by hand before each step."""
    support, epochs = task.support, len(order)
    model = Published(support.dim, len(task.text), ratio)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
    cuts = [rows.split(batch_size) for rows in order]
    step, steps = 0, epochs * len(cuts[0])
    held = min(views, support.views.shape[1])
    for epoch in range(epochs):
        for rows in cuts[epoch]:
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            weak, strong = support.views[rows, 2 * epoch % held], support.views[rows, (2 * epoch + 1) % held]
            loss = published_loss(model, weak, strong, support.labels[rows], **weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mse_weight": 40.0},
        {"cov_weight": 3.0},
        {"svd_weight": 5000.0},
        {"ratio": 2, "lr": 1e-2, "weight_decay": 1.0, "batch_size": 8, "views": 3},
    ],
    ids=str,
)
def test_training_is_the_published_one_written_out(make_task, options):
    """Five epochs on views (0 1) (2 3) (0 1) ..; each term also with a weight that makes it count."""
    task = make_task(shots=4, views=4)
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(5)])
    ours = fitted(task, {"batch_order": order}, epochs=5, **options)
    names = {"mse_weight": "mse", "cov_weight": "cov", "svd_weight": "svd", "weight_decay": "decay"}
    model = published_training(task, order, **{names.get(name, name): value for name, value in options.items()})
    with torch.no_grad():
        wanted = model.head(model(task.test.features))
    torch.testing.assert_close(ours.logits(task.test), wanted, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("rows, width", [(4, 7), (9, 5)])
def test_covariance_of_different_channels(rows, width):
    """From the smaller Gram matrix; the gradient too."""
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.double, requires_grad=True)
    covariance = z.T.cov()
    wanted = (covariance.square().sum() - covariance.diagonal().square().sum()) / width
    torch.testing.assert_close(off_diagonal_covariance(z), wanted)
    torch.testing.assert_close(torch.autograd.grad(off_diagonal_covariance(z), z)[0], torch.autograd.grad(wanted, z)[0])


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 6), st.integers(0, 1000))
def test_dominance_is_the_mean_share_of_the_largest_singular_values(rows, width, count, seed):
    z = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double, requires_grad=True)
    values = torch.linalg.eigvalsh(z @ z.T if rows < width else z.T @ z).clamp_min(0).sqrt().flip(0)
    assert dominance(z, count).item() == pytest.approx((values / values.sum())[:count].mean().item(), abs=1e-6)
    assert torch.autograd.gradcheck(lambda x: dominance(x, count), z, atol=1e-4)


@pytest.mark.parametrize(
    "z", [torch.eye(6), torch.ones(4, 6), torch.eye(6)[:3].repeat(2, 1)], ids=["equal", "one", "pairs"]
)
def test_equal_and_vanishing_singular_values_have_finite_gradients(z):
    z = z.clone().requires_grad_()
    dominance(z, 2).backward()
    assert torch.isfinite(z.grad).all()


def test_one_row_an_image_says_what_the_same_row_twice_says():
    """But for the one that an unbiased covariance takes off the number of rows."""
    z = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    twice = z.repeat(2, 1)
    torch.testing.assert_close(dominance(twice, 5), dominance(z, 5))
    torch.testing.assert_close(consistency(twice, twice + 1), consistency(z, z + 1))
    torch.testing.assert_close(off_diagonal_covariance(twice) * (15 / 14) ** 2, off_diagonal_covariance(z))


def test_without_views_an_image_is_both(make_task):
    task = make_task(shots=8)
    same = replace(task, support=replace(task.support, views=task.support.features[:, None].repeat(1, 2, 1)))
    with_views, without = fitted(same), fitted(task)
    assert without.report.notes == ["no augmented views: each image stands for both of its views"]
    assert not with_views.report.notes
    difference = (with_views.logits(task.test) - without.logits(task.test)).abs().max()
    assert difference < 0.05 * without.logits(task.test).abs().max()


def test_an_image_left_over_joins_the_batch_before():
    def sizes(size, batch_size):
        return [len(batch) for batch in without_single(list(torch.arange(size).split(batch_size)), batch_size)]

    assert sizes(65, 64) == [65] and sizes(66, 64) == [64, 2]
    assert sizes(5, 2) == [2, 3]
    assert sizes(1, 64) == [1]
    assert sizes(3, 1) == [1, 1, 1]


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("shots, batch_size", [([1, 0], 64), ([1, 1], 1)], ids=str)
def test_single_images_still_make_two_rows(make_task, views, shots, batch_size):
    task = make_task(classes=2, shots=shots, views=views)
    adapter = fitted(task, batch_size=batch_size)
    assert torch.isfinite(adapter.logits(task.test)).all()


def test_the_text_has_no_part_in_it(make_task):
    task = make_task()
    other = replace(task, text=TextClassifier(-task.text.weights, logit_scale=7.0, logit_bias=3.0))
    assert torch.equal(fitted(task).logits(task.test), fitted(other).logits(task.test))


def test_features_are_taken_with_their_norms(make_task):
    task = make_task(views=2)
    unit = replace(task, support=replace(task.support, features=task.support.unit, views=None, raw_norms=False))
    raw = replace(task, support=replace(task.support, views=None))
    assert not torch.allclose(fitted(unit).logits(task.test), fitted(raw).logits(task.test), atol=0.1)
    assert any("norms are gone" in note for note in fitted(unit).report.notes)
    adapter = fitted(raw)
    assert not torch.allclose(adapter.logits(task.test.features), adapter.logits(2 * task.test.features), atol=0.1)


def test_the_order_of_samples_does_not_matter(make_task):
    task = make_task()
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(e)) for e in range(3)])
    moved = torch.randperm(20, generator=torch.Generator().manual_seed(9))
    shuffled = replace(task, support=task.support.select(moved))
    base = fitted(task, {"batch_order": order}).logits(task.test)
    ours = fitted(shuffled, {"batch_order": moved.argsort()[order]}).logits(task.test)
    torch.testing.assert_close(ours, base, atol=1e-3, rtol=1e-3)


def test_it_learns_and_reports(make_task):
    """At the scale of real features; with large ones the covariances outweigh the classes."""
    task = make_task(shots=16, norm=0.3)
    adapter = fitted(task, epochs=30, lr=1e-2)
    history = adapter.report.history
    assert task.accuracy(adapter) > 0.9 and history[-1]["loss"] < history[0]["loss"] / 2
    assert len(history) == 30 and history[0]["lr"] == 1e-2 and history[-1]["lr"] < 1e-4
    assert adapter.report.chosen_on == "nothing to choose" and adapter.report.val_score is None


def test_defaults_are_published():
    published = {
        "ratio": 4, "mse_weight": 1.0, "cov_weight": 0.04, "svd_weight": 0.001, "singular_values": 5, "lr": 1e-3,
        "weight_decay": 1e-4, "epochs": 30, "batch_size": 64, "views": 10,
    }  # fmt: skip
    assert published.items() <= build_adapter("nmtune").options.items()

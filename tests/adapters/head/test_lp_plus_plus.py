from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.head import lp_plus_plus

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import ConfigError
from vladapt.core.registry import build_adapter


def fitted(task, val=False, resources=None, seed=0, **options):
    adapter = build_adapter("lp-plus-plus", **options)
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None, resources=resources, seed=seed)
    return adapter


def test_agrees_with_the_reference_training_run(agrees):
    """After the last epoch; and the accuracy at the best epoch on val."""
    agrees(lp_plus_plus)


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("shots", [3, [1, 6, 2, 0, 3]], ids=str)
def test_training_is_written_out_with_autograd(make_task, accumulate, shots):
    """Torch's own SGD on w and b; alpha by hand, its gradient zeroed or not. Unequal shots: N / C in place of K."""
    task = make_task(shots=shots, dim=7)
    ours = fitted(
        task, epochs=23, momentum=0.7, alpha_scale=90.0, alpha_every=4, accumulate=accumulate, class_weight="none"
    )
    x, y, t = task.support.unit, task.support.labels, task.text.weights
    seen = [c for c in range(5) if (y == c).any()]
    layer = torch.nn.Linear(7, 5)
    bound = 7**-0.5
    with torch.no_grad():
        layer.weight.copy_(torch.stack([x[y == c].sum(dim=0) for c in range(5)]))
        layer.bias.copy_(2 * bound * torch.rand(5, generator=torch.Generator().manual_seed(0)) - bound)
    start = 90 * torch.stack([(x[y == c] @ t[c]).mean() for c in seen]).mean()
    alpha = torch.full((5,), float(start), requires_grad=True)
    optimizer = torch.optim.SGD(
        layer.parameters(), 4 * len(x) / torch.linalg.eigvalsh(x.T @ x)[-1].item(), momentum=0.7
    )
    rate = len(x) / (4 * (x @ t.T).square().sum(dim=0).max())
    losses = []
    for epoch in range(1, 24):
        loss = F.cross_entropy(layer(x) + alpha * (x @ t.T), y)
        optimizer.zero_grad()
        if not accumulate:
            alpha.grad = None
        loss.backward()
        optimizer.step()
        if epoch % 4 == 0:
            alpha.data -= rate * alpha.grad
        losses.append(loss.item())
    assert [row["loss"] for row in ours.report.history] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(ours.weight, layer.weight.data, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.bias, layer.bias.data, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.alpha, alpha.data, atol=1e-4, rtol=1e-4)
    assert (ours.alpha - start).abs().max() > 0.01


@pytest.mark.parametrize("dim", [6, 40])
def test_steps_are_told_by_the_data(make_task, dim):
    """The largest eigenvalue comes from the smaller Gram matrix, of rows or of columns."""
    task = make_task(dim=dim)
    chosen, x = fitted(task, epochs=1).report.chosen, task.support.unit.double()
    assert chosen["lr_w"] == pytest.approx(4 * len(x) / torch.linalg.matrix_norm(x, 2).item() ** 2, rel=1e-5)
    sums = (x @ task.text.weights.double().T).square().sum(dim=0)
    assert chosen["lr_alpha"] == pytest.approx(len(x) / (4 * sums.max().item()), rel=1e-5)


def test_the_latest_best_epoch_on_val_is_kept(make_task):
    task = make_task(shots=2, noise=2.0)
    adapter = fitted(task, val=True, epochs=60)
    scores = [row["val_score"] for row in adapter.report.history]
    epoch = max(i + 1 for i, score in enumerate(scores) if score == max(scores))
    assert scores[0] < max(scores) and epoch < 60
    assert adapter.report.chosen["epoch"] == epoch and adapter.report.val_score == max(scores)
    assert torch.equal(adapter.logits(task.test), fitted(task, epochs=epoch).logits(task.test))


def test_without_val_the_epoch_comes_from_a_part_held_out(make_task):
    task = make_task(shots=8, noise=2.0)
    report = fitted(task, epochs=40).report
    first, again = ([row for row in report.history if row["refit"] == refit] for refit in (0, 1))
    assert len(first) == 40 and len(again) == report.chosen["epoch"] and report.chosen_on.startswith("10 images held")
    assert "val_score" in first[0] and "val_score" not in again[0]
    everything = fitted(task, val=True, epochs=1).report.chosen["lr_w"]
    assert report.chosen["lr_w"] == everything  # of the whole support, as are the weights
    few = fitted(make_task(shots=2), epochs=7).report
    assert few.chosen["epoch"] == 7 and few.val_score is None and few.chosen_on.startswith("defaults")


def test_neither_logit_scale_nor_bias_has_a_part(make_task):
    task = make_task()
    other = replace(task, text=replace(task.text, logit_scale=430.0, logit_bias=-12.0))
    assert torch.equal(fitted(task, epochs=20).logits(task.test), fitted(other, epochs=20).logits(task.test))


def test_the_order_of_samples_and_classes_does_not_matter(make_task):
    task, bias = make_task(), torch.linspace(-0.1, 0.1, 5)
    base = fitted(task, epochs=30, resources={"bias": bias}).logits(task.test)
    shuffled = replace(
        task, support=task.support.select(torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    )
    torch.testing.assert_close(fitted(shuffled, epochs=30, resources={"bias": bias}).logits(task.test), base)
    order = torch.tensor([3, 0, 4, 1, 2])  # new class i is old class order[i]
    support = FeatureSet(task.support.features, order.argsort()[task.support.labels])
    renamed = replace(task, support=support, text=TextClassifier(task.text.weights[order]))
    moved = fitted(renamed, epochs=30, resources={"bias": bias[order]}).logits(task.test)
    torch.testing.assert_close(moved, base[:, order])


def test_one_augmented_view_an_image(make_task):
    task = make_task(views=3)
    report = fitted(task, epochs=5).report
    assert report.notes == ["learned from one augmented view per image"]
    alone = replace(task, support=replace(task.support, features=task.support.views[:, 0], views=None))
    assert torch.equal(fitted(task, epochs=5).logits(task.test), fitted(alone, epochs=5).logits(task.test))
    assert fitted(alone, epochs=5).report.notes == ["learned from the images as they are"]


def test_defaults_are_published():
    published = {
        "epochs": 300, "momentum": 0.9, "alpha_scale": 250.0, "alpha_every": 10, "accumulate": True, "views": 1,
    }  # fmt: skip
    assert published.items() <= build_adapter("lp-plus-plus").options.items()


def test_a_bias_of_another_shape(make_task):
    with pytest.raises(ConfigError, match=r"resources\['bias'\] has shape \(4,\)"):
        fitted(make_task(), epochs=1, resources={"bias": torch.zeros(4)})

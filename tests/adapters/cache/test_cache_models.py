"""What each cache method computes, against its formula written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vladapt.adapters.cache import _cache_model, _several_labels
from vladapt.adapters.cache._training import chained_cosine_rates
from vladapt.core.contracts import TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_adapter
from vladapt.core.training import LearningRates

CACHES = ["tip-adapter", "tip-adapter-f", "ape", "ape-t"]
FIXED = {"beta": 2.0, "alpha": 1.5}


def test_tip_adapter_is_zero_shot_plus_the_cache(make_task):
    task = make_task(shots=3)
    adapter = build_adapter("tip-adapter", **FIXED)
    adapter.fit(task.support, task.text)
    x, keys = task.test.unit, task.support.unit
    for row in range(5):
        expected = 100 * x[row] @ task.text.weights.T
        for key, label in zip(keys, task.support.labels):
            expected[label] += 1.5 * torch.exp(-2.0 * (1 - x[row] @ key))
        torch.testing.assert_close(adapter.logits(task.test)[row], expected, atol=1e-4, rtol=1e-5)


def test_keys_average_raw_views_and_are_normalised_once(make_task):
    """A long view outweighs a short one: normalising each view first would be another key."""
    task = make_task(views=4)
    views = task.support.views * torch.tensor([1.0, 5.0, 1.0, 0.2])[:, None]
    support = replace(task.support, views=views)
    for name in CACHES[:2]:
        adapter = build_adapter(name, views=3, **FIXED, **({"lr": 1e-12} if name.endswith("f") else {}))
        adapter.fit(support, task.text)
        torch.testing.assert_close(adapter.keys, F.normalize(views[:, :3].mean(dim=1), dim=-1), atol=1e-5, rtol=1e-5)
    plain = build_adapter("tip-adapter", views=0, **FIXED)
    plain.fit(support, task.text)
    torch.testing.assert_close(plain.keys, support.unit)


@pytest.mark.parametrize("name", CACHES)
def test_the_cache_is_scaled_with_the_logit_scale(make_task, name):
    """Alphas were published for a scale of 100: at a scale of 20 all logits are a fifth, so the choice is the same."""
    task = make_task()
    fixed = {**FIXED, **({"lr": 1e-12} if name in ("tip-adapter-f", "ape-t") else {})}
    logits = []
    for scale in (100.0, 20.0):
        adapter = build_adapter(name, **fixed)
        adapter.fit(task.support, TextClassifier(task.text.weights, logit_scale=scale))
        logits.append(adapter.logits(task.test) / scale)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CACHES)
def test_a_logit_bias_is_added(make_task, name):
    task = make_task()
    biased = build_adapter(name, **FIXED)
    biased.fit(task.support, replace(task.text, logit_bias=-7.0))
    plain = build_adapter(name, **FIXED)
    plain.fit(task.support, task.text)
    torch.testing.assert_close(biased.logits(task.test), plain.logits(task.test) - 7.0, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", CACHES)
def test_rows_are_taken_in_blocks(make_task, monkeypatch, name):
    task = make_task()
    adapter = build_adapter(name, **FIXED)
    adapter.fit(task.support, task.text)
    whole = adapter.logits(task.test)
    widest = []
    exp = torch.exp
    monkeypatch.setattr(_cache_model, "CHUNK_ELEMENTS", 3 * len(task.support))
    monkeypatch.setattr(_cache_model.torch, "exp", lambda x: widest.append(x.shape[0]) or exp(x))
    torch.testing.assert_close(adapter.logits(task.test), whole, atol=1e-4, rtol=1e-5)
    assert 3 in widest and set(widest) <= {3, 1, 2, len(task.support)}


def test_ape_is_the_formula(make_task):
    task = make_task(classes=4, shots=3, dim=20)
    adapter = build_adapter("ape", top_q=9, gamma=0.4, **FIXED)
    adapter.fit(task.support, task.text)
    x, keys, text = task.test.unit, task.support.unit, task.text.weights
    q = adapter.channels
    assert len(q) == 9 == len(set(q.tolist()))
    xq, kq, wq = (F.normalize(t[:, q], dim=-1) for t in (x, keys, text))
    expected = 100 * x @ text.T
    for n, label in enumerate(task.support.labels):
        guess = torch.softmax(kq[n] @ wq.T, dim=-1)
        bits = torch.log2((1 + 1e-6) / (guess[label] + 1e-6))
        expected[:, label] += 1.5 * torch.exp(-2.0 * (1 - xq @ kq[n])) * torch.exp(0.4 * bits)
    torch.testing.assert_close(adapter.logits(task.test), expected, atol=1e-4, rtol=1e-5)


def test_ape_t_starts_from_tip_adapter(make_task):
    """With nothing learned (a rate of almost 0) residual and value scales change nothing."""
    task = make_task()
    tip, ape_t = build_adapter("tip-adapter", **FIXED), build_adapter("ape-t", lr=1e-12, **FIXED)
    tip.fit(task.support, task.text)
    ape_t.fit(task.support, task.text)
    torch.testing.assert_close(ape_t.logits(task.test), tip.logits(task.test), atol=1e-4, rtol=1e-5)


def recovered_gradient(before, after):
    """One AdamW step of rate 1 and epsilon 1 without decay moves by -g / (|g| + 1)."""
    moved = (after - before).double()
    return -moved / (1 - moved.abs())


ONE_STEP = {"lr": 1.0, "eps": 1.0, "weight_decay": 0.0, "epochs": 1, "batch_size": 1000, "select": "last", **FIXED}


def test_tip_adapter_f_steps_along_the_gradient_of_the_keys(make_task):
    task = make_task(shots=2, noise=2, text_noise=4)
    adapter = build_adapter("tip-adapter-f", **ONE_STEP)
    adapter.fit(task.support, task.text)
    x, y = task.support.unit.double(), task.support.one_hot().double()
    kernel = torch.exp(-2.0 * (1 - x @ x.T))  # queries are the keys themselves
    wrong = torch.softmax(100 * x @ task.text.weights.double().T + 1.5 * kernel @ y, dim=-1) - y  # (N, C)
    gradient = ((wrong @ y.T) * kernel * 1.5 * 2.0).T @ x / len(x)  # (N, D)
    assert gradient.abs().max() > 0.05
    torch.testing.assert_close(recovered_gradient(task.support.unit, adapter.keys), gradient, atol=1e-5, rtol=1e-3)
    assert not torch.allclose(adapter.keys.norm(dim=-1), torch.ones(len(x)), atol=1e-4)  # not normalised again


def test_ape_t_steps_along_the_gradient_of_residual_and_value_scale(make_task):
    task = make_task(classes=4, shots=2, noise=2, text_noise=4)
    adapter = build_adapter("ape-t", top_q=6, **ONE_STEP)
    adapter.fit(task.support, task.text)
    x, labels = task.support.unit.double(), task.support.labels
    residual = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    scale = torch.ones(len(x), dtype=torch.float64, requires_grad=True)
    logits = []
    for row in x:
        text = [w.index_add(0, adapter.channels, r) for w, r in zip(task.text.weights.double(), residual)]
        total = [100 * row @ w for w in text]
        for key, label, v in zip(x, labels.tolist(), scale):
            moved = key.index_add(0, adapter.channels, residual[label])
            total[label] = total[label] + 1.5 * v * torch.exp(-2.0 * (1 - row @ moved))
        logits.append(torch.stack(total))
    F.cross_entropy(torch.stack(logits), labels).backward()
    assert residual.grad.abs().max() > 0.05 and scale.grad.abs().max() > 0.05
    ours = recovered_gradient(torch.zeros(4, 6), adapter.residual)
    torch.testing.assert_close(ours, residual.grad, atol=1e-5, rtol=1e-3)
    ours = recovered_gradient(torch.ones(len(x)), adapter.value_scale[:, 0])
    torch.testing.assert_close(ours, scale.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["tip-adapter-f", "ape-t"])
def test_each_epoch_trains_on_its_view(make_task, name):
    """Of two views the first epoch sees the first: the loss is that of a support whose features are that view."""
    task = make_task(views=2, shots=3)
    options = {"epochs": 2, "lr": 1e-12, "views": 2, "batch_size": 1000, **FIXED}
    report = build_adapter(name, **options).fit(task.support, task.text)
    adapter = build_adapter(name, **options)
    adapter.fit(task.support, task.text)
    for epoch in (0, 1):
        logits = adapter.logits(task.support.views[:, epoch])
        loss = float(F.cross_entropy(logits, task.support.labels))
        assert report.history[epoch]["loss"] == pytest.approx(loss, rel=1e-3)
    assert report.history[0]["loss"] != pytest.approx(report.history[1]["loss"], rel=1e-2)


@pytest.mark.parametrize("name", ["tip-adapter-f", "ape-t"])
def test_history_has_loss_rate_and_val_score(make_task, name):
    task = make_task()
    report = build_adapter(name, epochs=4, lr=1e-3).fit(task.support, task.text, val=task.val)
    assert [row["epoch"] for row in report.history] == [1, 2, 3, 4]
    assert [row["lr"] for row in report.history] == sorted((row["lr"] for row in report.history), reverse=True)
    scores = [row["val_score"] for row in report.history]
    assert report.chosen["epoch"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize("name", ["tip-adapter-f", "ape-t"])
def test_a_second_run_on_all_ends_after_the_chosen_epoch(make_task, name):
    task = make_task(shots=8, noise=1.5)
    adapter = build_adapter(name, epochs=6)
    report = adapter.fit(task.support, task.text)
    refit = [row for row in report.history if row["refit"]]
    assert len([row for row in report.history if not row["refit"]]) == 6
    assert len(refit) == report.chosen["epoch"]
    assert len(adapter.keys) == len(task.support)
    assert refit[0]["lr"] == report.history[0]["lr"]


@pytest.mark.parametrize("name", ["ape", "ape-t"])
def test_several_labels_an_image_are_refused_in_one_line(make_multilabel_task, name):
    task = make_multilabel_task()
    with pytest.raises(CapabilityError, match="one label per image"):
        build_adapter(name).fit(task.support, task.text)


@pytest.mark.parametrize(
    "name, option, value",
    [
        ("tip-adapter", "search_scale", (7,)), ("tip-adapter", "search_scale", (0.05, 3)),
        ("tip-adapter", "search_step", (0, 20)), ("ape", "w", (1,)),
    ],
)  # fmt: skip
def test_bad_options_are_named(name, option, value):
    with pytest.raises(ConfigError, match=option):
        build_adapter(name, **{option: value})


@pytest.mark.parametrize("name", ["ape", "ape-t"])
def test_more_channels_than_the_features_have(make_task, name):
    task = make_task(dim=16)
    with pytest.raises(ConfigError, match="top_q=17"):
        build_adapter(name, top_q=17).fit(task.support, task.text)


def test_shares_of_a_label_are_means_of_its_positives_less_its_negatives():
    labels = torch.tensor([[1, 0, 1], [1, 0, float("nan")], [0, 0, 0], [float("nan"), 0, 1]])
    shares = _several_labels.signed_shares(labels, 4)
    assert torch.allclose(shares[:, 0] / 2, torch.tensor([0.5, 0.5, -1.0, 0.0]))  # two positives per label on average
    assert torch.allclose(shares[:, 2] / 2, torch.tensor([0.5, 0.0, -1.0, 0.5]))
    assert not shares[:, 1].any() and not shares[:, 3].any()
    many = torch.cat([torch.ones(500, 1), torch.zeros(500, 1)])
    assert float(_several_labels.signed_shares(many, 1).clamp(min=0).sum()) == pytest.approx(16, rel=1e-4)


@pytest.mark.parametrize("lr, steps", [(1e-3, 1), (1e-3, 2), (0.1, 37), (1.0, 400)])
def test_a_chained_cosine_is_that_of_torch_bit_for_bit(lr, steps):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert chained_cosine_rates(lr, steps) == expected
    assert expected == pytest.approx(LearningRates.cosine(lr, steps), rel=1e-6)

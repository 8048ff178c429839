"""The trainer of small heads against closed forms: on squares and lines every step is known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet
from vladapt.core.training.small_heads import (
    Epoch,
    keep_best,
    label_loss,
    train_epochs,
    training_features,
)


def sgd(*parameters, lr=1.0):
    return torch.optim.SGD(parameters, lr=lr)


# Steps ----------------------------------------------------------------------------------------------------------------


def test_every_step_descends_at_its_own_rate_on_its_own_batch():
    """A step on (w - mean x)^2 / 2 moves w by the rate's share of the way to the mean of the batch."""
    targets = torch.tensor([1.0, 5.0, -2.0, 8.0], dtype=torch.double)
    weight = torch.zeros((), dtype=torch.double, requires_grad=True)
    rates, batches = [[0.5, 0.25], [0.1, 0.9]], [[[0, 1], [2, 3]], [[3, 0], [1, 2]]]
    expected, losses = 0.0, []
    for of_epoch, rows in zip(rates, batches):
        for rate, row in zip(of_epoch, rows):
            mean = float(targets[row].mean())
            losses.append((expected - mean) ** 2 / 2)
            expected += rate * (mean - expected)
    epochs = train_epochs(
        sgd(weight), rates, lambda epoch: batches[epoch], lambda epoch, row: (weight - targets[row].mean()) ** 2 / 2
    )
    done = list(epochs)
    assert float(weight.detach()) == pytest.approx(expected, rel=1e-12)
    assert torch.cat([epoch.losses for epoch in done]).tolist() == pytest.approx(losses, rel=1e-12)
    assert [epoch.number for epoch in done] == [0, 1] and not any(epoch.losses.requires_grad for epoch in done)


@pytest.mark.parametrize(("accumulate", "means"), [(1, [[0], [1], [2]]), (2, [[0, 1], [2]]), (3, [[0, 1, 2]])])
def test_gradients_of_some_batches_make_a_step_and_the_last_of_an_epoch_may_have_fewer(accumulate, means):
    rows, parameter = torch.tensor([1.0, 2.0, 4.0]), torch.zeros(1, requires_grad=True)

    def loss_of(epoch, batch):
        return (rows[batch] * parameter).sum()

    optimizer = torch.optim.SGD([parameter], lr=1.0)
    for _ in train_epochs(optimizer, [[0.1] * 3] * 2, lambda _: [0, 1, 2], loss_of, accumulate=accumulate):
        pass
    moved = sum(float(rows[some].sum()) / accumulate for some in means)
    assert parameter.item() == pytest.approx(-0.1 * moved * 2)
    steps = []
    optimizer.step = lambda: steps.append(parameter.grad.item())
    for _ in train_epochs(optimizer, [[0.1] * 3], lambda _: [0, 1, 2], loss_of, accumulate=accumulate):
        pass
    assert steps == pytest.approx([float(rows[some].sum()) / accumulate for some in means])


def test_the_loss_is_told_its_epoch():
    weight = torch.zeros((), requires_grad=True)
    done = train_epochs(sgd(weight), [[1.0]] * 3, lambda epoch: [None], lambda epoch, _: weight * 0 + epoch)
    assert [float(epoch.losses) for epoch in done] == [0, 1, 2]


def test_what_the_caller_changes_between_epochs_counts_in_the_next():
    weight, pull = torch.zeros((), requires_grad=True), [1.0]
    for _ in train_epochs(sgd(weight), [[1.0]] * 3, lambda epoch: [None], lambda epoch, _: -pull[0] * weight):
        pull[0] *= 10
    assert float(weight.detach()) == 111


def test_an_epoch_ends_with_its_rates():
    """So a last epoch may be shorter, and batches may be without end."""
    seen, weight = [], torch.zeros((), requires_grad=True)
    endless = iter(range(100))

    def loss_of(epoch, number):
        seen.append((epoch, number))
        return weight.square()

    list(train_epochs(sgd(weight), [[0.1] * 3, [0.1] * 2], lambda epoch: endless, loss_of))
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4)]


def test_heads_side_by_side_learn_as_they_would_alone():
    heads = torch.tensor([0.0, 10.0], requires_grad=True)
    (epoch,) = train_epochs(sgd(heads), [[0.5, 0.5]], lambda epoch: [1.0, 3.0], lambda _, x: (heads - x) ** 2 / 2)
    assert heads.tolist() == [1.75, 4.25]
    assert epoch.losses.tolist() == [[0.5, 40.5], [3.125, 3.125]]
    assert [epoch.row(head=head)["loss"] for head in (0, 1)] == [1.8125, 21.8125]


def test_gradients_are_clipped_to_their_norm():
    weight = torch.zeros(2, requires_grad=True)
    slope = torch.tensor([30.0, -40.0])
    list(train_epochs(sgd(weight), [[2.0]], lambda epoch: [None], lambda *_: (slope * weight).sum(), clip_grad=1.0))
    assert weight.tolist() == pytest.approx([-1.2, 1.6], rel=1e-5)


def test_nothing_but_the_optimisers_tensors_gets_a_gradient():
    weight, tower = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    list(train_epochs(sgd(weight), [[0.1]], lambda epoch: [None], lambda *_: weight * tower))
    assert tower.grad is None and float(weight.detach()) == pytest.approx(0.9)


def test_a_row_of_the_history():
    epoch = Epoch(4, (0.5, 0.25), torch.tensor([1.0, 2.0]))
    assert epoch.row() == {"epoch": 5, "loss": 1.5, "lr": 0.5}
    assert epoch.row(first=0)["epoch"] == 4


# The kept epoch -------------------------------------------------------------------------------------------------------


def climbing(epochs: int):
    """A weight that is e after e epochs, and its training."""
    weight = torch.zeros((), requires_grad=True)
    return weight, train_epochs(sgd(weight), [[1.0]] * epochs, lambda epoch: [None], lambda *_: -weight)


def test_the_weights_of_the_first_best_epoch_come_back():
    weight, epochs = climbing(6)
    kept, history = keep_best(epochs, [weight], lambda: -abs(float(weight) - 2.5))
    assert kept == 2 and float(weight.detach()) == 2
    assert [row["val_score"] for row in history] == [-1.5, -0.5, -0.5, -1.5, -2.5, -3.5]
    assert [row["loss"] for row in history] == [0, -1, -2, -3, -4, -5]  # it trained on to the end
    assert weight.requires_grad and weight.is_leaf


@pytest.mark.parametrize("score, best", [(None, True), (lambda: math.nan, True), (lambda: 1.0, False)])
def test_the_last_epoch_is_kept_where_none_is_chosen(score, best):
    weight, epochs = climbing(3)
    kept, history = keep_best(epochs, [weight], score, best=best)
    assert kept == 3 and float(weight.detach()) == 3
    assert ["val_score" in row for row in history] == [score is not None] * 3


def test_a_score_builds_no_graph_and_the_row_is_the_callers():
    weight, epochs = climbing(2)
    graphs = []

    def score():
        graphs.append((weight * 2).requires_grad)
        return 0.0

    _, history = keep_best(epochs, [weight], score, row=lambda epoch: {"half": epoch.number / 2})
    assert graphs == [False, False]
    assert history == [{"half": 0.0, "val_score": 0.0}, {"half": 0.5, "val_score": 0.0}]


# What a step sees, and its loss ---------------------------------------------------------------------------------------


def pictures(count: int, views: int = 0) -> FeatureSet:
    """None of them of unit length."""
    drawn = torch.randn(1 + views, count, 2, generator=torch.Generator().manual_seed(0))
    return FeatureSet(drawn[0], torch.arange(count) % 2, views=drawn[1:].transpose(0, 1) if views else None)


def test_epoch_e_takes_view_e_modulo_their_number():
    support, index = pictures(4, views=3), torch.tensor([2, 0])
    for epoch, view in enumerate((0, 1, 0)):
        unit = training_features(support, index, views=2, epoch=epoch)
        torch.testing.assert_close(unit, F.normalize(support.views[index, view], dim=-1))
    torch.testing.assert_close(training_features(support, index, 9, 5), F.normalize(support.views[index, 2], dim=-1))
    assert torch.equal(training_features(support, index, views=0, epoch=1), support.unit[index])
    plain = pictures(4)
    assert torch.equal(training_features(plain, index, views=2, epoch=1), plain.unit[index])


def test_the_loss_of_one_label_and_of_several():
    even, truth = torch.zeros(2, 4), torch.tensor([3, 0])
    assert float(label_loss(False)(even, truth)) == pytest.approx(math.log(4))
    sure = torch.tensor([[0.0, 50.0]])
    assert float(label_loss(False, label_smoothing=0.2)(sure, torch.tensor([1]))) == pytest.approx(0.1 * 50, rel=1e-5)
    known = torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])
    logits = torch.tensor([[0.0, 90.0], [90.0, 0.0]])
    assert float(label_loss(True)(logits, known)) == pytest.approx(math.log(2))

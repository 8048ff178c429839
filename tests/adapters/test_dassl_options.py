"""Epochs as Dassl trains them: what each step sees, and its learning rate."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vladapt.adapters.dassl_options import dassl_epochs
from vladapt.core.contracts import FeatureSet
from vladapt.core.training import LearningRates, epoch_batches


def sgd(*parameters, lr=1.0):
    return torch.optim.SGD(parameters, lr=lr)


def pictures(count: int, views: int = 0) -> FeatureSet:
    """Image i at angle i / 10, view v of it turned by v + 1, none of them of unit length."""
    angles = torch.arange(count, dtype=torch.float) / 10

    def at(angles):
        return 3 * torch.stack([angles.cos(), angles.sin()], dim=-1)

    seen = at(angles[:, None] + torch.arange(1, views + 1)) if views else None
    return FeatureSet(at(angles), torch.arange(count) % 2, views=seen)


def seen_by_dassl(support, *, epochs=3, batch_size=2, views=0, order=None, seed=0):
    """The images that each step saw, by epoch."""
    seen, weight = [], torch.zeros((), requires_grad=True)

    def loss_of(unit, labels):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(len(unit)))
        images = torch.round(10 * torch.atan2(unit[:, 1], unit[:, 0])).long()
        assert views or torch.equal(labels, images % 2)
        seen.append(images.tolist())
        return weight.square()

    options = {"batch_size": batch_size, "warmup": "constant", "views": views, "order": order}
    steps = [0]
    for _ in dassl_epochs(sgd(weight), support, loss_of, epochs, seed, **options):
        steps.append(len(seen))
    return [seen[start:end] for start, end in pairwise(steps)]


def test_dassl_shuffles_every_epoch_and_drops_an_incomplete_batch():
    first, second = (seen_by_dassl(pictures(15), batch_size=4, seed=3) for _ in range(2))
    other = seen_by_dassl(pictures(15), batch_size=4, seed=4)
    assert first == second != other
    for epoch in first:
        rows = [row for batch in epoch for row in batch]
        assert [len(batch) for batch in epoch] == [4, 4, 4] and len(set(rows)) == 12
        assert rows != sorted(rows)
    assert first[0] != first[1] != first[2]
    assert [[b.tolist() for b in epoch_batches(15, 4, 3, drop_last=True)(epoch)] for epoch in range(3)] == first


def test_dassl_follows_a_given_order():
    order = torch.tensor([[4, 3, 2, 1, 0], [0, 2, 4, 1, 3]])
    assert seen_by_dassl(pictures(5), epochs=2, order=order) == [[[4, 3], [2, 1]], [[0, 2], [4, 1]]]


@pytest.mark.parametrize("warmup", ["constant", "linear", None])
def test_dassl_takes_one_rate_an_epoch_from_the_optimisers_own(warmup):
    """With a slope of 1 a step of plain SGD moves the weight by its rate."""
    weight = torch.zeros((), dtype=torch.double, requires_grad=True)
    training = dassl_epochs(
        sgd(weight, lr=0.3), pictures(6), lambda unit, labels: -weight, 5, 0,
        batch_size=2, warmup=warmup, views=0, order=None,
    )  # fmt: skip
    expected, reached = LearningRates.dassl(0.3, 5, warmup=warmup), 0.0
    assert len(set(expected)) == 5
    for epoch, rate in zip(training, expected, strict=True):
        reached += 3 * rate
        assert float(weight.detach()) == pytest.approx(reached, rel=1e-12)
        assert epoch.row()["lr"] == rate

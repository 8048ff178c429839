from __future__ import annotations

import pytest
import torch

from vladapt.core.errors import ConfigError
from vladapt.core.training.batches import epoch_batches, minibatches


def test_an_epoch_sees_every_sample_once():
    batches = minibatches(10, 4, epoch=2, seed=7)
    assert [len(b) for b in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_order_is_a_function_of_seed_and_epoch():
    def order(epoch, seed):
        return torch.cat(minibatches(50, 8, epoch, seed)).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(1, 1) != order(1, 2)


def test_a_given_order_is_followed():
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    assert [b.tolist() for b in minibatches(3, 2, epoch=1, seed=0, order=order)] == [[1, 2], [0]]


@pytest.mark.parametrize("order", [torch.zeros(1, 3).long(), torch.zeros(2, 4).long(), torch.zeros(6).long()])
def test_an_order_of_another_size_is_refused(order):
    with pytest.raises(ConfigError, match="batch_order"):
        minibatches(3, 2, epoch=1, seed=0, order=order)


def test_a_smaller_last_batch_is_dropped_on_request_unless_it_is_all():
    assert [len(b) for b in minibatches(10, 4, 0, 0, drop_last=True)] == [4, 4]
    assert [len(b) for b in minibatches(8, 4, 0, 0, drop_last=True)] == [4, 4]
    assert [len(b) for b in minibatches(3, 4, 0, 0, drop_last=True)] == [3]


def test_the_batches_of_every_epoch_are_its_minibatches():
    batches = epoch_batches(10, 4, seed=3, drop_last=True)
    for epoch in range(3):
        made = minibatches(10, 4, epoch, seed=3, drop_last=True)
        assert [b.tolist() for b in batches(epoch)] == [b.tolist() for b in made]
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    assert [b.tolist() for b in epoch_batches(3, 2, seed=0, order=order)(1)] == [[1, 2], [0]]

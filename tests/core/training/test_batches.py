from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import ConfigError
from vladapt.core.training.batches import GlobalBatches, drawn_rows, epoch_batches, minibatches
from vladapt.core.training.loading import planned_batches, shuffled_batches
from vladapt.core.training.parts import TrainingTask
from vladapt.core.training.sources import PairSource


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


@settings(max_examples=30)
@given(st.lists(st.floats(0, 4, width=32), min_size=2, max_size=40).filter(lambda w: sum(w) > 1), st.integers(0, 9))
def test_a_drawn_epoch_sees_each_row_as_often_as_its_weight_rounded_down_or_up(weights, epoch):
    weights = np.array(weights, np.float32)
    size = max(1, round(float(weights.sum(dtype=np.float64))))
    counts = np.bincount(drawn_rows(weights, size, epoch, seed=3), minlength=len(weights))
    expected = weights.astype(np.float64) * size / weights.sum(dtype=np.float64)
    assert counts.sum() == size
    assert (counts >= np.floor(expected - 1e-6)).all() and (counts <= np.ceil(expected + 1e-6)).all()


def test_the_average_over_epochs_is_the_weight_and_pairs_of_rows_are_drawn_apart():
    weights = np.array([0.5] * 20 + [1.5] * 4 + [0.0], np.float32)
    counts = np.stack([np.bincount(drawn_rows(weights, 16, epoch, 0), minlength=25) for epoch in range(600)])
    assert np.abs(counts.mean(axis=0) - weights).max() < 0.08
    together = np.corrcoef(counts[:, :20].T)[np.triu_indices(20, 1)]
    assert np.abs(together).max() < 0.25  # not always the same half


def test_batches_of_weighted_pairs_draw_them_anew_in_each_epoch_and_resume():
    weights = np.array([0.25] * 40 + [2.0] * 5 + [0.0] * 5, np.float32)
    batches = GlobalBatches(50, 4, seed=1, weights=weights)
    assert len(batches) == 5 and batches.size == 20
    first = [row for batch in batches for _, row in batch]
    batches.epoch = 1
    second = [row for batch in batches for _, row in batch]
    assert len(first) == 20 and max(first) < 45 and set(first) != set(second)
    assert all(some.count(row) == 2 for some in (first, second) for row in range(40, 45))
    batches.start = 3
    assert [row for batch in batches for _, row in batch] == second[12:]
    plain = [row for batch in GlobalBatches(20, 4, seed=1) for _, row in batch]
    assert sorted(plain) == list(range(20))


@settings(max_examples=20)
@given(st.integers(1, 60), st.integers(2, 16), st.booleans(), st.integers(0, 9))
def test_copies_of_a_pair_come_together_as_seldom_as_can_be(heavy, batch_size, drop_last, epoch):
    weights = np.array([float(heavy)] + [1.0] * 99, np.float32)
    batches = GlobalBatches(100, batch_size, seed=2, drop_last=drop_last, weights=weights)
    batches.epoch = epoch
    rows = [[row for _, row in batch] for batch in batches]
    assert [len(each) for each in rows] == [batches.share(step) for step in range(len(batches))]
    full = batches.size // batches.batch_size
    assert max(each.count(0) for each in rows) <= -(-heavy // full)
    counts = np.bincount(np.concatenate(rows), minlength=100)
    assert counts[0] <= heavy and counts[1:].max() <= 1 and counts.sum() == sum(map(len, rows))


class Weighted(PairSource):
    weights = np.full(50, 0.25, np.float32)

    def __init__(self):
        pass

    def __len__(self):
        return 50


def test_a_set_with_weights_has_one_number_of_steps_and_tells_of_batches_that_are_cut():
    messages, asked = [], SimpleNamespace(batch_size=16, seed=0, drop_last=True, steps=None)
    batches = planned_batches(Weighted(), asked, 0, messages.append)
    assert batches.size == batches.batch_size == 12 and "less than a batch, so a step has 12" in messages[0]
    asked.batch_size = 4
    assert len(planned_batches(Weighted(), asked, 0, messages.append)) == len(shuffled_batches(Weighted(), 4, 0)) == 3
    assert "less than a batch" not in messages[1]


def test_an_epoch_of_a_fit_has_as_many_steps_as_the_weights_of_its_pairs_make(monkeypatch):
    """50 pairs of a quarter each are 12 per epoch: 3 steps of 4, or 6 of 2."""
    from vladapt import build_adapter
    from vladapt.core.training import tower_adapter

    asked = []

    def trained(self, towers, task, place, *, epochs, steps, seed):
        asked.append((len(task.source), steps))
        raise InterruptedError

    monkeypatch.setattr(tower_adapter.TowerAdapter, "_train_in_place", trained)
    monkeypatch.setattr(tower_adapter.TowerAdapter, "_teachers_for", lambda *args: ())
    monkeypatch.setattr(tower_adapter, "copy_of", lambda backbone: backbone)
    backbone = SimpleNamespace(fingerprint="drawn")
    for batch_size in (4, 2):
        adapter = build_adapter("lit", batch_size=batch_size)
        adapter._teachers = {}
        with pytest.raises(InterruptedError):
            adapter._train(TrainingTask(Weighted(), {"clip": 1.0}), 1, backbone, None, None, 0)
    assert asked == [(50, 3), (50, 6)]

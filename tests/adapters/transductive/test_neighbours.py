"""Nearest neighbours in blocks, and sparse sums along them, beside dense ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.adapters.transductive import _neighbours
from vladapt.adapters.transductive._neighbours import Links, mutual_links, nearest, row_prints, support_links


def unit_rows(count, dim=16, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("rows, keys, count", [(7, 50, 3), (300, 4001, 3), (40, 5000, 1), (5, 3, 4), (64, 777, 10)])
@pytest.mark.parametrize("block", [2**24, 10_000])
def test_nearest_are_the_largest_cosines(monkeypatch, rows, keys, count, block):
    monkeypatch.setattr(_neighbours, "CHUNK_ELEMENTS", block)
    queries, stored = unit_rows(rows, seed=1), unit_rows(keys)
    cosines, index = nearest(queries, stored, count)
    expected = (queries @ stored.T).topk(min(count, keys), dim=1)
    torch.testing.assert_close(cosines, expected.values)
    assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("count", [1, 2, 4, 100, 3500])
@pytest.mark.parametrize("block", [2**24, 10_000])
def test_no_row_is_its_own_neighbour(monkeypatch, count, block):
    monkeypatch.setattr(_neighbours, "CHUNK_ELEMENTS", block)
    rows = unit_rows(count)
    _, index = nearest(rows, rows, 3, skip_self=True)
    assert index.shape == (count, min(3, count - 1))
    assert (index != torch.arange(count)[:, None]).all()
    expected = (rows @ rows.T - 9 * torch.eye(count)).topk(min(3, count - 1), dim=1).indices
    assert torch.equal(index, expected)


def test_copies_are_neighbours_but_not_of_themselves():
    rows = unit_rows(40)[[0, 0, 0, *range(1, 40)]]
    cosines, index = nearest(rows, rows, 2, skip_self=True)
    torch.testing.assert_close(cosines[:3], torch.ones(3, 2))
    assert [sorted(row) for row in index[:3].tolist()] == [[1, 2], [0, 2], [0, 1]]


def test_links_are_a_sparse_matrix():
    """Rows without a weight, and several weights at one place."""
    rows, columns = torch.tensor([3, 1, 1, 3, 1]), torch.tensor([0, 2, 2, 4, 0])
    weights, values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.randn(5, 3)
    dense = torch.zeros(6, 5).index_put_((rows, columns), weights, accumulate=True)
    torch.testing.assert_close(Links.of(rows, columns, weights, 6).spread(values), dense @ values)


def test_mutual_links():
    rows = unit_rows(60)
    cosines = rows @ rows.T - 9 * torch.eye(60)
    affinity = torch.where(cosines >= cosines.topk(3, dim=1).values[:, -1:], cosines.clamp_min(0), 0)
    torch.testing.assert_close(mutual_links(rows, 3).spread(torch.eye(60)), (affinity + affinity.T) / 6)


def test_a_neighbour_on_the_other_side_has_no_weight():
    rows = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.1]]), dim=1)
    assert not mutual_links(rows, 1).spread(torch.eye(2)).any()


def test_support_links_keep_the_nearest():
    rows, shots = unit_rows(60), unit_rows(5, seed=2)
    cosines = shots @ rows.T
    affinity = torch.where(cosines >= cosines.topk(3, dim=1).values[:, -1:], cosines.clamp_min(0), 0)
    torch.testing.assert_close(support_links(shots, rows, 3).spread(torch.eye(5)), affinity.T / 6)


def test_no_neighbours():
    assert not mutual_links(unit_rows(1), 3).spread(torch.ones(1, 2)).any()
    assert not mutual_links(unit_rows(9), 0).spread(torch.ones(9, 2)).any()


def test_prints_tell_rows_apart(monkeypatch):
    monkeypatch.setattr(_neighbours, "PRINT_ROWS", 100)
    rows = unit_rows(1000)
    prints = row_prints(rows)
    assert len(prints.unique()) == 1000
    assert torch.equal(row_prints(rows.flip(0)).flip(0), prints)
    assert row_prints(rows.T[:1].contiguous()).shape == (1,)
    nudged = rows.clone()
    nudged[:, 3] *= 1 + 2e-7
    assert not torch.isin(row_prints(nudged), prints).any()

"""Sparse sums along links of neighbours, beside dense ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vladapt.adapters.transductive import _neighbours
from vladapt.adapters.transductive._neighbours import Links, mutual_links, row_prints, support_links


def unit_rows(count, dim=16, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


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

"""Nearest neighbours in blocks, beside those of the whole matrix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.features import nearest as nearest_module
from vladapt.core.features.nearest import nearest_rows


def unit_rows(count, dim=16, seed=0):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("rows, keys, count", [(7, 50, 3), (300, 4001, 3), (40, 5000, 1), (5, 3, 4), (64, 777, 10)])
@pytest.mark.parametrize("block", [2**24, 10_000])
def test_nearest_are_the_largest_cosines(monkeypatch, rows, keys, count, block):
    monkeypatch.setattr(nearest_module, "CHUNK_ELEMENTS", block)
    queries, stored = unit_rows(rows, seed=1), unit_rows(keys)
    cosines, index = nearest_rows(queries, stored, count)
    expected = (queries @ stored.T).topk(min(count, keys), dim=1)
    torch.testing.assert_close(cosines, expected.values)
    assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("count", [1, 2, 4, 100, 3500])
@pytest.mark.parametrize("block", [2**24, 10_000])
def test_no_row_is_its_own_neighbour(monkeypatch, count, block):
    monkeypatch.setattr(nearest_module, "CHUNK_ELEMENTS", block)
    rows = unit_rows(count)
    _, index = nearest_rows(rows, rows, 3, skip_self=True)
    assert index.shape == (count, min(3, count - 1))
    assert (index != torch.arange(count)[:, None]).all()
    expected = (rows @ rows.T - 9 * torch.eye(count)).topk(min(3, count - 1), dim=1).indices
    assert torch.equal(index, expected)


def test_copies_are_neighbours_but_not_of_themselves():
    rows = unit_rows(40)[[0, 0, 0, *range(1, 40)]]
    cosines, index = nearest_rows(rows, rows, 2, skip_self=True)
    torch.testing.assert_close(cosines[:3], torch.ones(3, 2))
    assert [sorted(row) for row in index[:3].tolist()] == [[1, 2], [0, 2], [0, 1]]

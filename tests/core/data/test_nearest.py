"""Nearest neighbours in blocks, beside those of the whole matrix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.data import nearest as nearest_module
from vladapt.core.data.nearest import nearest_points, nearest_rows


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


def points(count, dim=6, seed=0):
    return 3 * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_nearest_points_are_those_of_all_distances():
    rows = points(300)
    assert torch.equal(nearest_points(rows, 5), torch.cdist(rows, rows).topk(5, dim=1, largest=False).indices)
    assert nearest_points(rows[:3], 5).shape == (3, 3)


def test_among_many_points_those_of_near_cells_are_compared(monkeypatch):
    """A near copy is found, and nearly all neighbours; less where fewer cells are searched."""
    rows = points(4000)
    rows[2000:] = rows[:2000] + 0.02 * points(2000, seed=1)
    whole = nearest_points(rows, 4)
    monkeypatch.setattr(nearest_module, "SEARCHED_WHOLE", 1000)
    monkeypatch.setattr(nearest_module, "POINTS_A_CELL", 50)
    monkeypatch.setattr(nearest_module, "MOST_CELLS_SEARCHED", 0)
    shares = []
    for cells in (80, 20, 1):
        monkeypatch.setattr(nearest_module, "CELLS_SEARCHED", cells)
        some = nearest_points(rows, 4)
        assert (some == torch.arange(4000)[:, None]).any(dim=1).all()
        shares.append(float((some[:, :, None] == whole[:, None]).any(dim=2).double().mean()))
        assert ((some - torch.arange(4000)[:, None]).abs() == 2000).any(dim=1).double().mean() > 0.9
    assert nearest_points(torch.ones(1100, 6), 4).shape == (1100, 4)  # a single cell has all
    assert shares[0] == 1 and 0.97 < shares[1] < 1 and shares[2] < shares[1]
    monkeypatch.setattr(nearest_module, "MOST_CELLS_SEARCHED", 80 * 4000)  # CELLS_SEARCHED is 1
    assert torch.equal(nearest_points(rows, 4).sort().values, whole.sort().values)


def test_cells_give_distances_of_other_points_too():
    rows, queries = points(500), points(40, seed=1)
    distances, index = nearest_module.PointCells(rows).nearest(3, queries)  # few cells: all are searched
    expected = torch.cdist(queries, rows).topk(3, dim=1, largest=False)
    order = distances.argsort(dim=1)
    assert torch.allclose(distances.gather(1, order).sqrt(), expected.values, atol=1e-3)
    assert torch.equal(index.gather(1, order), expected.indices)
    distances, _ = nearest_module.PointCells(rows[:2]).nearest(3)
    assert torch.isinf(distances[:, 2]).all() and torch.isfinite(distances[:, :2]).all()

"""Nearest neighbours in blocks, beside those of the whole matrix."""

from __future__ import annotations

from collections import Counter

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


def found_in_cells(cells, *asked):
    return {tuple(pair) for pair in torch.stack(cells.near(*asked)).T.tolist()}


def test_among_many_points_those_of_near_cells_are_compared(monkeypatch):
    """A near copy is found, and all that are near; less where fewer cells are searched."""
    rows = points(4000)
    rows[2000:] = rows[:2000] + 0.02 * points(2000, seed=1)
    monkeypatch.setattr(nearest_module, "POINTS_A_CELL", 50)
    cells, most = nearest_module.PointCells(rows), 4.0
    near = torch.cdist(rows.double(), rows.double()).square().fill_diagonal_(torch.inf) <= most
    expected = {tuple(pair) for pair in near.nonzero().tolist()}
    shares = []
    for searched in (80, 8, 1):
        found = found_in_cells(cells, most, 50, searched)
        assert found <= expected
        assert len({one % 2000 for one, other in found if abs(one - other) == 2000}) > 0.95 * 2000
        shares.append(len(found) / len(expected))
    assert shares[0] == 1 and 0.97 < shares[1] < 1 and shares[2] < 0.9 * shares[1]
    few = found_in_cells(cells, most, 1, 1)
    assert few < found and max(Counter(one for one, _ in few).values()) == 1


def test_cells_are_asked_for_the_neighbours_of_other_points_too():
    rows, queries = points(500), points(40, seed=1)
    near = torch.cdist(queries, rows).square() <= 9.0
    found = found_in_cells(nearest_module.PointCells(rows), 9.0, 500, 9, queries)
    assert found == {tuple(pair) for pair in near.nonzero().tolist()} and found
    assert not found_in_cells(nearest_module.PointCells(rows), 1e-6, 500, 9, queries + 1)
    alike = nearest_module.PointCells(torch.ones(3, 6))  # a single cell has all; none is near itself
    assert found_in_cells(alike, 1.0, 5, 6) == {(n, k) for n in range(3) for k in range(3) if n != k}

"""Label propagation: a symmetric graph, and conjugate gradients for many right sides at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ._neighbours import Links

COLUMN_NUMBERS = 2**24
"""Numbers of a block of right sides that is solved at once: 128 MiB in float64, and a few times that while solving."""


def normalised_graph(rows: Tensor, columns: Tensor, weights: Tensor, nodes: int) -> Links:
    """D^-1/2 (E + E^T) D^-1/2 without its diagonal, in float64; a node without an edge keeps an empty row.

    Args:
        rows, columns, weights: (L,) each edge once in the direction in which it was found, so that one found from both
            sides counts twice.
        nodes: how many there are.
    """
    apart = rows != columns
    rows, columns = torch.cat([rows[apart], columns[apart]]), torch.cat([columns[apart], rows[apart]])
    weights = weights[apart].double().repeat(2)
    degrees = torch.zeros(nodes, dtype=torch.float64, device=weights.device).index_add_(0, rows, weights)
    inverse = torch.where(degrees > 0, degrees, 1).rsqrt()
    return Links.of(rows, columns, weights * inverse[rows] * inverse[columns], nodes)


def propagated(graph: Links, classes: int, alpha: float, iterations: int, tolerance: float) -> Tensor:
    """(V, C) float32: the first C columns of the inverse of I - alpha A, A the graph of V nodes.

    Each column is solved by conjugate gradients until its residual is `tolerance` times that of zero.

    Args:
        alpha: below 1, which makes the matrix positive definite.
        iterations: most steps of the solver.
    """
    nodes = len(graph.starts)
    step = max(1, COLUMN_NUMBERS // nodes)
    parts = []
    for start in range(0, classes, step):
        picked = torch.arange(start, min(start + step, classes), device=graph.columns.device)
        right = torch.zeros(nodes, len(picked), dtype=torch.float64, device=picked.device)
        right[picked, torch.arange(len(picked), device=picked.device)] = 1
        parts.append(_conjugate_gradients(graph, right, alpha, iterations, tolerance).float())
    return torch.cat(parts, dim=1)


def _conjugate_gradients(graph: Links, right: Tensor, alpha: float, iterations: int, tolerance: float) -> Tensor:
    """(V, K) solutions X of (I - alpha A) X = `right`, column by column."""
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = right.clone(), right.square().sum(dim=0)  # (K,)
    enough = tolerance**2 * square
    for _ in range(iterations):
        going = square > enough
        if not going.any():
            break
        image = direction - alpha * graph.spread(direction)
        length = torch.where(going, square / (direction * image).sum(dim=0), 0)
        solution += length * direction
        residual -= length * image
        before, square = square, torch.where(going, residual.square().sum(dim=0), square)
        direction = residual + torch.where(going, square / before, 0) * direction
    return solution

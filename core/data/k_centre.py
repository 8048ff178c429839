"""The greedy k-centre algorithm: each time the row farthest from all that were chosen."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CANDIDATES = 1024
"""The farthest rows after a pass over all, among which the next centres are."""
ROWS_AT_ONCE = 16_384


def farthest_first(
    read: Callable[[Tensor | slice], Tensor],
    total: int,
    count: int,
    centres: Tensor | None = None,
    first: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[int], Tensor]:
    """The greedy k-centre algorithm, by Euclidean distances.

    A pass over all rows is not needed for each choice: distances only fall, so that as long as the farthest of the
    candidates is farther than every other row was after the last pass, it is the farthest of all.

    Args:
        read: positions, or a range of them, -> (n, D) rows.
        total: N.
        count: how many are chosen, at most N.
        centres: (L, D) that are there already; without any the first that is chosen is `first`.
        progress: is told how many are chosen, after each pass.

    Returns:
        Positions in the order of choice, of equally far ones the smaller first, and (N,) squared distances to the
        nearest centre.
    """
    chosen: list[int] = []
    new = centres
    if new is None or not len(new):
        chosen = [first]
        new = read(torch.tensor(chosen))
    nearest = torch.full((total,), torch.inf, device=new.device)
    while True:
        for start in range(0, total, ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, total))
            nearest[rows] = torch.minimum(nearest[rows], nearest_centre(read(rows), new))
        nearest[chosen] = 0.0
        progress(len(chosen))
        if len(chosen) == count:
            return chosen, nearest
        picks = _among_candidates(read, nearest, chosen, count - len(chosen))
        chosen += picks
        new = read(torch.tensor(picks))


def nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    """(M,) squared distance of (M, D) rows to the nearest of (L, D) centres."""
    parts = [_squared_distances(rows, some).amin(dim=1) for some in centres.split(CANDIDATES)]
    return torch.stack(parts).amin(dim=0)


def _among_candidates(
    read: Callable[[Tensor | slice], Tensor], nearest: Tensor, taken: list[int], count: int
) -> list[int]:
    """The next choices, at least one, at most `count`, as far as they are certain without another pass."""
    distances = nearest.clone()
    distances[taken] = -1.0  # copies of a centre may be all that is left
    values, order = distances.sort(descending=True, stable=True)
    places = order[:CANDIDATES].sort().values
    others = values[CANDIDATES] if len(values) > CANDIDATES else -1.0
    rows, own = read(places), distances[places]
    picks: list[int] = []
    while len(picks) < count:
        best = int(own.argmax())
        if picks and not own[best] > others:
            break
        picks.append(int(places[best]))
        own = torch.minimum(own, _squared_distances(rows, rows[best : best + 1]).flatten())
        own[best] = -1.0
    return picks


def _squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """(M, L)."""
    squares = rows.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return (squares - 2 * rows @ centres.T).clamp(min=0)

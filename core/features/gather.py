"""The parts that ranks computed, put together in the order asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.distributed import all_gather_json, all_gather_rows, world_size
from .table import Table


@dataclass
class Part:
    """What one rank has of a result.

    Args:
        positions: n positions in the whole, of the images that could be read.
        values: (n, 1 + V, D) float32.
        reasons: (position, why) of the others.
        computed, cached: numbers of cells.
    """

    positions: list[int]
    values: Tensor
    reasons: list[tuple[int, str]]
    computed: int
    cached: int

    @classmethod
    def of(cls, table: Table, positions: list[int], computed: int, width: int) -> Part:
        """A filled table whose rows stand at `positions` of the whole; `width` is D where no row could be read."""
        kept = table.kept
        values = torch.zeros(0, table.request.columns, width) if table.values is None else table.values
        return cls(
            positions=[positions[row] for row in kept],
            values=values if len(kept) == len(values) else values[kept],
            reasons=[(positions[row], reason) for row, reason in sorted(table.reasons.items())],
            computed=computed,
            cached=table.filled - computed,
        )


def gathered(part: Part) -> Part:
    """The parts of all ranks as one, the same on all ranks."""
    if world_size() == 1:
        return part
    said = all_gather_json([part.positions, part.reasons, part.computed, part.cached])
    columns = part.values.shape[1]
    values = all_gather_rows(part.values.flatten(1))
    positions = torch.tensor([position for positions, *_ in said for position in positions], dtype=torch.int64)
    order = positions.argsort()
    return Part(
        positions=positions[order].tolist(),
        values=values[order].unflatten(1, (columns, -1)),
        reasons=sorted((position, reason) for _, reasons, *_ in said for position, reason in reasons),
        computed=sum(computed for *_, computed, _ in said),
        cached=sum(cached for *_, cached in said),
    )

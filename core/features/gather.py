"""The shares that ranks computed, put together in the order asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..runtime.distributed import all_gather_json, all_gather_rows, world_size
from .table import Table


@dataclass
class Share:
    """What one rank has of a result.

    Args:
        positions: n positions in the whole, of the images that could be read.
        values: (n, 1 + V, D) float32.
        reasons: (position, why) of the others.
        computed, cached: numbers of cells.
        parts: (n, T, D) float32 features of the parts of each image, or None where none has parts.
        counts: n numbers of parts, 0 for an image as it is, which is its own only part.
    """

    positions: list[int]
    values: Tensor
    reasons: list[tuple[int, str]]
    computed: int
    cached: int
    parts: Tensor | None = None
    counts: list[int] = field(default_factory=list)

    @property
    def parts_mask(self) -> Tensor:
        """(n, T), True where there is a part."""
        return torch.arange(self.parts.shape[1]) < torch.tensor(self.counts).clamp(min=1)[:, None]

    @classmethod
    def of(cls, table: Table, positions: list[int], computed: int, width: int) -> Share:
        """A filled table whose rows stand at `positions` of the whole; `width` is D where no row could be read."""
        kept = table.kept
        values = torch.zeros(0, table.request.columns, width) if table.values is None else table.values
        parts, counts = table.parts_of(kept)
        return cls(
            positions=[positions[row] for row in kept],
            values=values if len(kept) == len(values) else values[kept],
            reasons=[(positions[row], reason) for row, reason in sorted(table.reasons.items())],
            computed=computed,
            cached=table.filled - computed,
            parts=parts,
            counts=counts,
        )


def gathered(share: Share) -> Share:
    """The shares of all ranks as one, the same on all ranks."""
    if world_size() == 1:
        return share
    said = all_gather_json([share.positions, share.reasons, share.counts, share.computed, share.cached])
    columns = share.values.shape[1]
    values = all_gather_rows(share.values.flatten(1))
    positions = torch.tensor([position for positions, *_ in said for position in positions], dtype=torch.int64)
    order = positions.argsort()
    counts = [count for _, _, counts, *_ in said for count in counts]
    return Share(
        positions=positions[order].tolist(),
        values=values[order].unflatten(1, (columns, -1)),
        reasons=sorted((position, reason) for _, reasons, *_ in said for position, reason in reasons),
        computed=sum(computed for *_, computed, _ in said),
        cached=sum(cached for *_, cached in said),
        parts=_all_parts(share, max(counts))[order] if any(counts) else None,
        counts=[counts[i] for i in order.tolist()],
    )


def _all_parts(share: Share, longest: int) -> Tensor:
    """(sum of n, T, D) of all ranks, in the order of ranks, padded with zeros to the longest."""
    own = share.values[:, :1] if share.parts is None else share.parts
    padded = torch.nn.functional.pad(own, (0, 0, 0, longest - own.shape[1]))  # (n, T, D)
    return all_gather_rows(padded.flatten(1)).unflatten(1, (longest, -1))

"""Rows of all ranks, differentiable: what a loss sees is the global batch, whatever rank holds which part of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError
from .distributed import all_gather_json

_agreed: ContextVar[set[int] | None] = ContextVar("agreed", default=None)


@contextmanager
def compared_once(agreed: set[int]) -> Iterator[None]:
    """Inside, `global_batch` compares shapes that ranks have compared before no more: where all of them see the same
    sequence of shapes, as in a training, no step then waits for that.

    Args:
        agreed: shapes that have been compared, as numbers; it grows.
    """
    token = _agreed.set(agreed)
    try:
        yield
    finally:
        _agreed.reset(token)


def global_batch(out: Mapping[str, Any], shared: frozenset[str]) -> dict[str, Any]:
    """The outputs of all ranks, one below the other in the order of ranks.

    Args:
        out: this rank's outputs; tensors with a first axis hold one row per sample.
        shared: names that are the same on all ranks and stay as they are.

    Raises:
        ConfigError: ranks hold different numbers of rows, or rows of different shapes.
    """
    if not _several():
        return dict(out)
    rows = {name: value for name, value in out.items() if _has_rows(name, value, shared)}
    _check_alike(rows)
    return {name: gather_rows(value) if name in rows else value for name, value in out.items()}


def gather_rows(rows: Tensor) -> Tensor:
    """(n, ...) of each rank -> (W * n, ...), in the order of ranks.

    Every rank computes the same global value from it. The gradient that comes back is this rank's own rows, times the
    number of ranks W: what DistributedDataParallel then averages over the ranks is the gradient of one process.
    """
    return _GatherRows.apply(rows) if _several() else rows


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        carried = rows.contiguous()
        if carried.dtype == torch.bool:  # gloo and nccl gather no booleans
            carried = carried.to(torch.uint8)
        parts = [torch.empty_like(carried) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, carried)
        return torch.cat(parts).to(rows.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        start = dist.get_rank() * ctx.count
        return gradient[start : start + ctx.count] * dist.get_world_size()


def _has_rows(name: str, value: Any, shared: frozenset[str]) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and name not in shared


def _check_alike(rows: Mapping[str, Tensor]) -> None:
    """Ranks that disagree on a shape would wait for each other for ever; one small exchange finds it out."""
    shapes = {name: list(value.shape) for name, value in sorted(rows.items())}
    digest, agreed = _digest(shapes), _agreed.get()
    if agreed is not None and digest in agreed:
        return
    if len(set(_of_all_ranks(digest, rows))) == 1:
        if agreed is not None:
            agreed.add(digest)
        return
    by_rank = all_gather_json(shapes)
    for rank, other in enumerate(by_rank):
        for name in sorted(set(by_rank[0]) | set(other)):
            if by_rank[0].get(name) != other.get(name):
                raise ConfigError(
                    f"output '{name}' has shape {by_rank[0].get(name)} on rank 0 and {other.get(name)} on rank {rank}; "
                    "give every rank the same number of samples"
                )


def _digest(shapes: Mapping[str, list[int]]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(shapes).encode()).digest()[:7], "big")


def _of_all_ranks(number: int, rows: Mapping[str, Tensor]) -> list[int]:
    device = next((value.device for value in rows.values()), torch.device("cpu"))
    parts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, torch.tensor([number], dtype=torch.int64, device=device))
    return [int(part) for part in parts]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

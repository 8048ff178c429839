"""The batch of a step as a rank holds it: its own rows, and those of all ranks where a loss wants them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .distributed import all_gather_json
from .process import holding
from .ranks import ONE, Ranks, present_ranks

_agreed: ContextVar[set[int] | None] = ContextVar("agreed", default=None)


def compared_once(agreed: set[int]) -> AbstractContextManager[None]:
    """Inside, `rank_batch` compares shapes that ranks have compared before no more: where all of them see the same
    sequence of shapes, as in a training, no step then waits for that.

    Args:
        agreed: shapes that have been compared, as numbers; it grows.
    """
    return holding(_agreed, agreed)


@dataclass
class RankBatch:
    """Named outputs of one step.

    Args:
        out: those of this rank; tensors with a first axis hold one row per sample.
        shared: names that are the same on all ranks.
        ranks: that hold the batch.
    """

    out: Mapping[str, Any]
    shared: frozenset[str] = frozenset()
    ranks: Ranks = ONE
    _whole: dict[str, Any] | None = field(default=None, init=False)

    @property
    def whole(self) -> dict[str, Any]:
        """The outputs of all ranks, one below the other in the order of ranks; gathered when first asked for."""
        if self._whole is None:
            rows = _rows_of(self.out, self.shared)
            self._whole = {name: self.ranks.whole(v) if name in rows else v for name, v in self.out.items()}
        return self._whole


def rank_batch(out: Mapping[str, Any], shared: frozenset[str]) -> RankBatch:
    """This rank's part of the global batch, once ranks have found that their parts are alike.

    Args:
        out: this rank's outputs.
        shared: names that are the same on all ranks.

    Raises:
        ConfigError: ranks hold different numbers of rows, or rows of different shapes.
    """
    ranks = present_ranks()
    if ranks.size > 1:
        _check_alike(_rows_of(out, shared), ranks)
    return RankBatch(dict(out), shared, ranks)


def _rows_of(out: Mapping[str, Any], shared: frozenset[str]) -> dict[str, Tensor]:
    return {name: v for name, v in out.items() if isinstance(v, Tensor) and v.ndim > 0 and name not in shared}


def _check_alike(rows: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Ranks that disagree on a shape would wait for each other for ever; one small exchange finds it out."""
    shapes = {name: list(value.shape) for name, value in sorted(rows.items())}
    digest, agreed = _digest(shapes), _agreed.get()
    if agreed is not None and digest in agreed:
        return
    device = next((value.device for value in rows.values()), torch.device("cpu"))
    if len(set(ranks.gather(torch.tensor([digest], dtype=torch.int64, device=device)).tolist())) == 1:
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

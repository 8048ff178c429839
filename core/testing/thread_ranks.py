"""Several ranks as threads of one process, for checks that need no more than what ranks exchange."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..runtime.ranks import Ranks, acting_as

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a rank waits for the others."""


def as_ranks(size: int, step: Callable[[int], T]) -> list[T]:
    """What each of `size` ranks makes of its number, each in a thread, with the exchanges of `Ranks` among them.

    Raises:
        The first error of a step, or threading.BrokenBarrierError where one exchanged more than another.
    """
    meeting = _Meeting(size)
    results: list[T | None] = [None] * size
    errors: list[Exception] = []

    def work(rank: int) -> None:
        try:
            with acting_as(ThreadRanks(rank, meeting)):
                results[rank] = step(rank)
        except Exception as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))
    return results


class ThreadRanks(Ranks):
    """One of several threads; see `as_ranks`.

    Attributes:
        sent: tensors that this rank gave to others so far.
    """

    def __init__(self, rank: int, meeting: _Meeting):
        self.rank, self.size, self.meeting, self.sent = rank, meeting.size, meeting, 0

    def gather(self, rows: Tensor) -> Tensor:
        return torch.cat(self._all(rows))

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self._all(value)).sum(dim=0)

    def highest(self, value: Tensor) -> Tensor:
        return torch.stack(self._all(value)).amax(dim=0)

    def scatter_sum(self, columns: Tensor) -> Tensor:
        return self.sum(columns)[self.own(len(columns) // self.size)]

    def pass_on(self, *tensors: Tensor) -> list[Tensor]:
        return [self._all(tensor)[(self.rank + 1) % self.size] for tensor in tensors]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        self.sent += 1
        return self.meeting.exchanged(self.rank, tensor.detach().clone())


class _Meeting:
    """Where threads lay down a tensor each and take up those of all."""

    def __init__(self, size: int):
        self.size, self.barrier = size, threading.Barrier(size, timeout=PATIENCE)
        self.tensors: list[Tensor | None] = [None] * size

    def exchanged(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self.tensors[rank] = tensor
        self.barrier.wait()
        tensors = list(self.tensors)
        self.barrier.wait()  # nobody lays down the next one before all have taken these
        return tensors

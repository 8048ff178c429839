"""In which order the samples of shards are read: a function of (seed, epoch) and of how many streams read them.

An epoch puts the shards in a new order and lays their samples end to end. Each stream reads a stretch of its own,
equally long, from front to back, in blocks that are shuffled in memory. So every stream has equally many samples, none
is read twice in an epoch, and what comes at any place is known without reading what is before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FIRST_BLOCK = 64
"""Samples of the first block of a stream, so that a training need not wait for a whole one."""


@dataclass(frozen=True)
class Run:
    """Samples that lie one after the other in a shard.

    Args:
        shard: number of the shard.
        first: the first of them, counted in the shard.
        count: how many.
    """

    shard: int
    first: int
    count: int


@dataclass(frozen=True)
class ShardOrder:
    """The order of all epochs.

    Args:
        firsts: (S,) int64, the first sample of each shard that is used.
        counts: (S,) int64, how many of it are used from there.
        seed: fixes every epoch.
        block: samples that are shuffled among themselves.
    """

    firsts: np.ndarray
    counts: np.ndarray
    seed: int
    block: int

    def __len__(self) -> int:
        return int(self.counts.sum())

    def blocks(self, epoch: int, begin: int, end: int, start: int = 0) -> Iterator[tuple[list[Run], np.ndarray]]:
        """A stream's stretch, block by block: what is to be read, and in which order (n,) it is used.

        Args:
            epoch: from 0.
            begin, end: the stretch of the epoch's samples.
            start: how many of the stretch are passed over; of the first block only what comes later is in the order.
        """
        shards = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        ends = self.counts[shards].cumsum()
        place = begin
        while place < end:
            size = min(min(FIRST_BLOCK, self.block) if place == begin else self.block, end - place)
            done = max(0, begin + start - place)
            if done < size:
                order = np.random.default_rng([self.seed, epoch, place]).permutation(size)
                yield list(self._runs(shards, ends, place, size)), order[done:]
            place += size

    def _runs(self, shards: np.ndarray, ends: np.ndarray, place: int, size: int) -> Iterator[Run]:
        stop = place + size
        at = int(ends.searchsorted(place, side="right"))
        while place < stop:
            shard, end = int(shards[at]), int(ends[at])
            inside = place - (end - int(self.counts[shard]))
            count = min(stop, end) - place
            if count:
                yield Run(shard, int(self.firsts[shard]) + inside, count)
            place, at = place + count, at + 1

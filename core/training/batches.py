"""Which samples a step sees: a function of (seed, epoch, step), cut over processes in the order of ranks.

The batch of a step is the same whatever the number of processes or micro-batches; a run that is resumed starts at its
step and reads nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..errors import ConfigError
from ..runtime.distributed import rank, world_size


class GlobalBatches(Sampler):
    """Yields, for each step of an epoch, this rank's part of the batch: a list of (epoch, row).

    Args:
        size: samples of the training set.
        batch_size: of all ranks together; cut to what a small training set has.
        seed: fixes the order of every epoch.
        drop_last: leave a last batch out that is not full; else it is as large as the ranks can share equally.
        steps: after so many of all epochs together there are none any more; None for all.
        weights: (N,) how often a sample is seen in an epoch on average, of N samples that `size` is then made of.

    Attributes:
        epoch: of the next pass.
        start: steps of it that are left out, done before a resume.
        streams: that samples come in; None: each is asked for by number.

    Raises:
        ConfigError: the batch cannot be cut into equal parts, or there are fewer samples than processes.
    """

    streams: int | None = None

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        drop_last: bool = True,
        steps: int | None = None,
        weights: np.ndarray | None = None,
    ):
        ranks = world_size()
        self.weights = weights
        if weights is not None:
            size = max(1, round(float(weights.sum(dtype=np.float64))))
        if size < ranks:
            raise ConfigError(f"{size} training samples for {ranks} processes; give more data or fewer processes")
        check_shares(batch_size, ranks)
        self.size, self.seed, self.steps = size, seed, steps
        self.batch_size = min(batch_size, size // ranks * ranks)
        self.rest = 0 if drop_last else self.size % self.batch_size // ranks * ranks
        self.epoch = self.start = 0

    def __len__(self) -> int:
        """Steps of an epoch. Samples that are left out come in other epochs: each has its own order."""
        return self.size // self.batch_size + bool(self.rest)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.weights is None:
            order = epoch_order(self.size, self.epoch, self.seed)
        else:
            rows = drawn_rows(self.weights, self.size, self.epoch, self.seed)
            sizes = [self.share(step) * world_size() for step in range(len(self))]
            order = torch.from_numpy(spread_rows(rows, sizes, self.epoch, self.seed))
        for step in self.planned():
            share = self.share(step)
            first = step * self.batch_size + rank() * share
            yield [(self.epoch, row) for row in order[first : first + share].tolist()]

    def planned(self) -> range:
        """The steps of the next pass."""
        return _steps_of(self)

    def share(self, step: int) -> int:
        """Samples of a step on each rank."""
        return (self.batch_size if (step + 1) * self.batch_size <= self.size else self.rest) // world_size()


class BatchPlan(Protocol):
    """Batches that a training brings itself, P identities with K images each, for instance.

    Attributes:
        batch_size: of all ranks together, the same in each step.
        steps: of an epoch, the same in each.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def rows(self, epoch: int) -> Sequence[Sequence[int]]:
        """The rows of each step of an epoch: a function of the epoch alone, the same on any number of ranks."""


class PlannedBatches(GlobalBatches):
    """The same where a plan says which samples a step sees; a sample may come several times.

    Args:
        size, seed, steps: as of `GlobalBatches`.
        plan: of the batches.

    Raises:
        ConfigError: as of `GlobalBatches`.
    """

    def __init__(self, size: int, plan: BatchPlan, seed: int, steps: int | None = None):
        super().__init__(size, plan.batch_size, seed, steps=steps)
        self.plan, self.batch_size = plan, plan.batch_size

    def __len__(self) -> int:
        return self.plan.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        planned, rows = self.planned(), self.plan.rows(self.epoch)
        for step in planned:
            share = self.share(step)
            yield [(self.epoch, row) for row in rows[step][rank() * share : (rank() + 1) * share]]

    def share(self, step: int) -> int:
        return self.batch_size // world_size()


class StreamBatches:
    """The same for samples that come in streams: how many of each stream a step takes.

    The batch of a step is made of equal parts of all streams, which ranks share. So it is the same on any number of
    ranks and workers that the streams can be shared by.

    Args:
        size, batch_size, drop_last, steps: as of `GlobalBatches`.
        streams: how many there are; a multiple of the ranks.

    Attributes:
        epoch, start: as of `GlobalBatches`.

    Raises:
        ConfigError: the batch or the streams cannot be cut into equal parts, or there are fewer samples than streams.
    """

    def __init__(self, size: int, batch_size: int, streams: int, drop_last: bool = True, steps: int | None = None):
        self.size, self.wanted, self.drop_last, self.steps = size, batch_size, drop_last, steps
        self.epoch = self.start = 0
        self.set_streams(streams)

    def set_streams(self, streams: int) -> None:
        """Read by another number of streams, as a run did that is resumed."""
        ranks = world_size()
        if streams % ranks:
            raise ConfigError(
                f"{streams} streams read this set, and {ranks} processes cannot share them equally; give a number of "
                f"processes that divides {streams}"
            )
        if self.wanted % streams:
            raise ConfigError(
                f"--batch-size {self.wanted} is not a multiple of the {streams} streams that read this set; it counts "
                "all processes together"
            )
        if self.size < streams:
            raise ConfigError(f"{self.size} training samples for {streams} streams; give more data or fewer processes")
        self.streams = streams
        self.batch_size = min(self.wanted, self.size // streams * streams)
        self.rest = 0 if self.drop_last else self.size % self.batch_size // streams * streams

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.size // self.batch_size + bool(self.rest)

    @property
    def left_out(self) -> int:
        """Samples of each epoch that are not seen in it: what does not fill a batch, others each time."""
        return self.size - self.size // self.batch_size * self.batch_size - self.rest

    def planned(self) -> range:
        """The steps of the next pass."""
        return _steps_of(self)

    def part(self, step: int) -> int:
        """Samples of a step in each stream."""
        return (self.batch_size if (step + 1) * self.batch_size <= self.size else self.rest) // self.streams

    def share(self, step: int) -> int:
        """Samples of a step on each rank."""
        return self.part(step) * self.streams // world_size()

    def mine(self) -> range:
        """The streams of this rank."""
        each = self.streams // world_size()
        return range(rank() * each, (rank() + 1) * each)

    def stretch(self, stream: int) -> tuple[int, int, int]:
        """Of a stream: where in the epoch's samples it begins and ends, and how many of them are done."""
        length = (self.size - self.left_out) // self.streams
        return stream * length, (stream + 1) * length, self.start * (self.batch_size // self.streams)


def _steps_of(batches: GlobalBatches | StreamBatches) -> range:
    """The steps of the next pass: those of its epoch after the first that are left out, until all are done."""
    all_steps = len(batches)
    stop = all_steps if batches.steps is None else min(all_steps, batches.steps - batches.epoch * all_steps)
    return range(batches.start, max(batches.start, stop))


def streams_for(batch_size: int, workers: int, most: int) -> int:
    """How many streams should read a set: one for each worker of each rank, as far as they share a batch equally.

    Args:
        batch_size: of all ranks together.
        workers: of each rank.
        most: samples of the set.

    Raises:
        ConfigError: the batch is not a multiple of the ranks.
    """
    ranks = world_size()
    check_shares(batch_size, ranks)
    each = [n for n in range(1, max(1, workers) + 1) if batch_size % (ranks * n) == 0 and ranks * n <= most]
    return ranks * max(each, default=1)


def epoch_order(size: int, epoch: int, seed: int, order: Tensor | None = None) -> Tensor:
    """(size,) int64 permutation of an epoch's samples.

    Args:
        size: number of samples.
        epoch: from 0.
        seed: fixes the shuffle.
        order: (epochs, size) int64, overrides the shuffle (`resources={"batch_order": ...}`).

    Raises:
        ConfigError: `order` has no such epoch, or is made for another number of samples.
    """
    if order is None:
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    if order.ndim != 2 or order.shape[1] != size or epoch >= len(order):
        raise ConfigError(
            f"batch_order has shape {tuple(order.shape)}; epoch {epoch} of {size} samples needs a row of {size}"
        )
    return order[epoch].cpu()


def drawn_rows(weights: np.ndarray, size: int, epoch: int, seed: int) -> np.ndarray:
    """(size,) int64 rows of an epoch in random order, copies one after the other: each as often as its share of the
    weights says, rounded down or up at random, so that the average over epochs is exact (systematic sampling in random
    order).

    Args:
        weights: (N,) not negative, one at least above 0.
        size: rows to draw.
        epoch, seed: fix the draw.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(weights))
    ends = weights[order].cumsum(dtype=np.float64)
    marks = (np.arange(size) + random.random()) * (ends[-1] / size)
    return order[np.searchsorted(ends, marks, side="right").clip(max=len(order) - 1)]


def spread_rows(rows: np.ndarray, sizes: Sequence[int], epoch: int, seed: int) -> np.ndarray:
    """(sum of sizes,) int64 rows of all batches, one batch after the other: rows are dealt to the batches in turn, so
    that the copies of one come together as seldom as can be. What no batch has room for is left out at random.

    Args:
        rows: of `drawn_rows`.
        sizes: of each batch, none larger than the first.
        epoch, seed: fix the order.
    """
    random, many = np.random.default_rng([seed, epoch, 1]), np.array(sizes)
    turn = random.permutation(len(many))
    firsts = many.cumsum() - many
    places = np.arange(many[0])[:, None]
    slots = (firsts[turn] + places)[places < many[turn]]
    order = np.empty(len(slots), np.int64)
    order[slots] = rows[np.sort(random.permutation(len(rows))[: len(slots)])]
    return order


def minibatches(
    size: int, batch_size: int, epoch: int, seed: int, *, order: Tensor | None = None, drop_last: bool = False
) -> list[Tensor]:
    """The batches of one epoch, int64 indices; the last may be smaller.

    Args:
        drop_last: leave a smaller last batch out, unless it is the only one.

    Raises:
        ConfigError: see `epoch_order`.
    """
    batches = list(epoch_order(size, epoch, seed, order).split(batch_size))
    if drop_last and len(batches) > 1 and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def check_shares(batch_size: int, ranks: int) -> None:
    """Raise the ConfigError of a batch that ranks cannot share equally."""
    if batch_size % ranks:
        raise ConfigError(
            f"--batch-size {batch_size} is not a multiple of the {ranks} processes; it counts all of them together"
        )


def epoch_batches(
    size: int,
    batch_size: int,
    seed: int,
    *,
    order: Tensor | None = None,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
) -> Callable[[int], list[Tensor]]:
    """Epoch -> its `minibatches`, indices on `device`."""

    def batches(epoch: int) -> list[Tensor]:
        made = minibatches(size, batch_size, epoch, seed, order=order, drop_last=drop_last)
        return [batch.to(device) for batch in made]

    return batches

"""Which samples of several sources a step sees: a function of (seed, step), whatever the number of processes.

The shares of a stage are laid side by side in [0, 1]. Step t takes of each source as many samples as there are points
(i + u_t) / B in its part, i = 0 ... B - 1, with u_t = u_0 + t / phi modulo 1, where phi is the golden ratio: each batch
is within one sample of its shares, and sums over steps stay within a few, since multiples of 1 / phi fill [0, 1] evenly
(Kronecker's sequence). So where a source stands before a step is a sum, and nothing has to be remembered.

A source is read pass by pass, each a permutation of all of its samples, and goes on from one epoch to the next: no
sample comes again before all were seen, and none twice in a batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..contracts.sources import FACTOR, ONE, NamedSource, SourceOptions, source_weights
from ..data.pairs.shards import BRACES
from ..data.pairs.source_list import read_stages
from ..errors import ConfigError
from ..runtime.distributed import rank, world_size
from ..runtime.remote import printed_name
from .batches import GlobalBatches, check_shares, drawn_rows, epoch_order, spread_rows

GOLDEN = (math.sqrt(5) - 1) / 2
GROWTH = 1024
"""Steps whose counts are made at least at once."""


@dataclass(frozen=True)
class MixtureStage:
    """Shares of a stretch of the training.

    Args:
        until: step at which it ends; None for the end of the training.
        shares: of each source in the samples that are drawn, which sum to 1; a source may have 0.
    """

    until: int | None
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Mixture:
    """How samples of several sources are drawn.

    Args:
        names: of the sources, no two alike.
        stages: one or more, the last without an end.
        one: whether a batch is of one source, drawn by the shares; else each batch has samples of all.
        replacement: whether samples are drawn anew each time, so that some come again before all were seen.
        samples: of an epoch; None: of all sources together.
    """

    names: tuple[str, ...]
    stages: tuple[MixtureStage, ...]
    one: bool = False
    replacement: bool = False
    samples: int | None = None

    def shares(self, steps: np.ndarray) -> np.ndarray:
        """(T,) steps from 0 -> (T, S) the shares that hold in them."""
        ends = [stage.until for stage in self.stages if stage.until is not None]
        return np.array([stage.shares for stage in self.stages])[np.searchsorted(ends, steps, side="right")]


def source_shares(weights: Sequence[float], sizes: Sequence[int], factors: bool) -> tuple[float, ...]:
    """The share of each source in the samples that are drawn.

    Args:
        weights: of the sources, none negative, one at least above 0.
        sizes: samples of each.
        factors: whether weights are relative to sampling in proportion to size, as open_clip's upsampling factors are;
            else they are the shares themselves, but for their sum.
    """
    parts = np.array(weights, np.float64) / max(weights) * (sizes if factors else 1)
    return tuple((parts / parts.sum()).tolist())


def mixture_of(
    sources: Sequence[NamedSource], options: SourceOptions, names: Sequence[str], sizes: Sequence[int]
) -> Mixture:
    """The mixture that a user asks for.

    Args:
        sources: as named.
        names: of them, from `names_of`.
        sizes: samples of each, by their weights where a set has some.

    Raises:
        DataError: the file of stages cannot be used. ConfigError: sources have weights besides those of the stages.
    """
    factors, stages = options.weights == FACTOR, []
    weighted = next((source for source in sources if source.weight is not None), None)
    if options.stages is not None and weighted is not None:
        raise ConfigError(
            f"--data {printed_name(weighted.text)}: the weights are those of --stages; omit one of the two"
        )
    if options.stages is None:
        stages.append(MixtureStage(None, source_shares(source_weights(sources, sizes, options), sizes, factors)))
    else:
        numbers = {source.path: number for number, source in enumerate(sources)}
        numbers |= {name: number for number, name in enumerate(names)}
        for until, weights in read_stages(options.stages, numbers):
            stages.append(MixtureStage(until, source_shares(weights, sizes, factors)))
    return Mixture(tuple(names), tuple(stages), options.batch == ONE, options.replacement, options.samples)


def names_of(sources: Sequence[NamedSource]) -> list[str]:
    """What sources are called: letters, digits, "_" and "-" of the last part of each path that has any, without its
    suffix and what is in braces, with a number where two are alike."""
    names: list[str] = []
    for number, source in enumerate(sources, start=1):
        parts = BRACES.sub("", printed_name(source.path)).split("/")
        usable = (re.sub(r"[^\w-]+", "-", part.partition(".")[0]).strip("-") for part in reversed(parts))
        short = next(filter(None, usable), f"source-{number}")
        while short in names:
            short = f"{short}-{number}"
        names.append(short)
    return names


class MixtureCounts:
    """How many samples of each source a step takes, and how many the steps before it took.

    Args:
        mixture: of the sources.
        batch_size: samples of a step.
        seed: of the offset u_0.
        unit: of each source a step takes a multiple of it, which divides the batch size.
    """

    def __init__(self, mixture: Mixture, batch_size: int, seed: int, unit: int = 1):
        self.mixture, self.units, self.unit = mixture, batch_size // unit, unit
        if mixture.one:
            self.units, self.unit = 1, batch_size
        self.start = np.random.default_rng([seed, len(mixture.names)]).random()
        self._before = np.zeros((1, len(mixture.names)), np.int64)

    def of(self, steps: np.ndarray) -> np.ndarray:
        """(T,) steps from 0 -> (T, S) int64."""
        shares = self.mixture.shares(steps)
        ends = shares.cumsum(axis=1)
        ends /= ends[:, -1:]
        offsets = (self.start + steps * GOLDEN) % 1.0
        points = np.floor(np.round(ends * self.units, 9) + offsets[:, None])  # (T, S)
        return np.diff(points, axis=1, prepend=0).astype(np.int64) * self.unit

    def before(self, steps: int) -> np.ndarray:
        """(steps + 1, S) int64: what was taken before each step, and after the last of them."""
        if len(self._before) <= steps:
            first = len(self._before) - 1
            new = self.of(np.arange(first, max(steps, first + GROWTH, 2 * first)))
            self._before = np.concatenate([self._before, self._before[-1] + new.cumsum(axis=0)])
        return self._before[: steps + 1]

    @property
    def most(self) -> np.ndarray:
        """(S,) of each source at most in one step."""
        if self.mixture.one:
            return np.array([self.unit if any(s) else 0 for s in zip(*(each.shares for each in self.mixture.stages))])
        each = np.array([stage.shares for stage in self.mixture.stages]) * self.units
        return np.ceil(np.round(each, 9)).max(axis=0).astype(np.int64) * self.unit


class _Passes:
    """The order of one source: passes over all of its samples, one after the other.

    Args:
        size: its samples.
        number: which of the sources it is.
        seed: fixes every pass.
        most: that one batch takes at most.
        weights: (size,) how often each should be seen in a pass on average, or None.
    """

    def __init__(self, size: int, number: int, seed: int, most: int, weights: np.ndarray | None = None):
        self.size, self.number, self.seed, self.most, self.weights = size, number, seed, most, weights
        self.length = size if weights is None else max(1, round(float(weights.sum(dtype=np.float64))))
        self._orders: dict[int, np.ndarray] = {}

    def rows(self, first: int, count: int, before: np.ndarray) -> list[tuple[int, int]]:
        """(pass, row) of `count` samples from place `first` on.

        Args:
            before: (T + 1,) rising, where each batch up to now begins, and the newest ends.
        """
        made: list[tuple[int, int]] = []
        while count > 0:
            number, place = divmod(first, self.length)
            rows = self._order(number, before)[place : place + count].tolist()
            made += [(number, row) for row in rows]
            first, count = first + len(rows), count - len(rows)
        return made

    def _order(self, number: int, before: np.ndarray) -> np.ndarray:
        """(length,) rows of a pass."""
        if number not in self._orders:
            newest = max((each for each in self._orders if each < number), default=-1)
            # Of a source of less than two batches each pass depends on the one before it, else on its permutation.
            follows = newest + 1 if self.length < 2 * self.most else number
            for each in range(follows, number + 1):
                self._orders[each] = self._without_repeats(each, before)
                for old in [earlier for earlier in self._orders if earlier < each - 1]:
                    del self._orders[old]
        return self._orders[number]

    def _without_repeats(self, number: int, before: np.ndarray) -> np.ndarray:
        """A pass that begins with other rows than those that the batch before its begin has of the last one."""
        order = self._permutation(number)
        begin = number * self.length
        first = int(before[np.searchsorted(before, begin, side="right") - 1])
        shared = begin - first
        if number == 0 or shared == 0 or self.weights is not None:
            return order
        last = self._orders.get(number - 1)
        ended = np.isin(order, (self._permutation(number - 1) if last is None else last)[self.length - shared :])
        head = np.flatnonzero(~ended)[: self.most - shared]
        return np.concatenate([order[head], np.delete(order, head)])

    def _permutation(self, number: int) -> np.ndarray:
        seed = self.seed * 1009 + self.number
        if self.weights is None:
            return epoch_order(self.size, number, seed).numpy()
        rows, most = drawn_rows(self.weights, self.length, number, seed), min(self.most or 1, self.length)
        sizes = [most] * (self.length // most)
        rest = self.length - sum(sizes)
        return spread_rows(rows, [*sizes, rest] if rest else sizes, number, seed)


class MixedBatches(GlobalBatches):
    """The batches of several sources, each full.

    Where sources are read in a row, a batch is made of as many equal units as there are streams: of each source a step
    takes a multiple of them, and stream u of each such source gives its part of unit u. A process has whole units, so
    batches are the same on any number of processes that the streams can be shared by.

    Args:
        mixture: how samples are drawn.
        sizes: of the sources; their rows are counted one source after the other.
        batch_size: of all processes together.
        seed: fixes every draw.
        steps: as of `GlobalBatches`.
        weights: of each source (N,) how often each of its samples should be seen in a pass on average, or None.
        streams: of each source that is read in a row; None: all are read in any order.
        streamed: whether each source is read in a row.
        drop_last: whether an epoch ends with the last batch that its samples fill; else with the one after it.

    Attributes:
        done_before: steps of earlier trainings, after which this one goes on in its sources.

    Raises:
        ConfigError: the batch cannot be cut into equal parts, a source has less than a batch takes of it, or samples of
            one that is read in a row are to be drawn anew.
    """

    def __init__(
        self,
        mixture: Mixture,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        steps: int | None = None,
        *,
        weights: Sequence[np.ndarray | None] | None = None,
        streams: int | None = None,
        streamed: Sequence[bool] = (),
        drop_last: bool = True,
    ):
        self.mixture, self.sizes, self.seed, self.steps = mixture, tuple(sizes), seed, steps
        self.batch_size, self.drop_last = batch_size, drop_last
        self.within = tuple(weights or [None] * len(sizes))
        self.streamed = tuple(streamed) or (False,) * len(sizes)
        self.offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        self.size = mixture.samples or sum(
            size if each is None else max(1, round(float(each.sum(dtype=np.float64))))
            for size, each in zip(sizes, self.within)
        )
        self.weights, self.rest = None, 0
        self.epoch = self.start = self.done_before = 0
        check_shares(batch_size, world_size())
        self.set_streams(streams)

    def set_streams(self, streams: int | None) -> None:
        """Read by another number of streams, as a run did that is resumed.

        Raises:
            ConfigError: as of the class.
        """
        if streams is not None:
            if streams % world_size():
                raise ConfigError(
                    f"{streams} streams read these sources, and {world_size()} processes cannot share them equally; "
                    f"give a number of processes that divides {streams}"
                )
            if self.batch_size % streams:
                raise ConfigError(
                    f"--batch-size {self.batch_size} is not a multiple of the {streams} streams that read these "
                    "sources; it counts all processes together"
                )
        self.streams = streams
        self.counts = MixtureCounts(self.mixture, self.batch_size, self.seed, streams or 1)
        most = self.counts.most.tolist()
        self._check_sizes(most)
        self.passes = [
            _Passes(size, number, self.seed, most[number], self.within[number])
            for number, size in enumerate(self.sizes)
        ]

    def __len__(self) -> int:
        """Steps of an epoch."""
        whole = self.size // self.batch_size
        return max(1, whole + (not self.drop_last and self.size % self.batch_size > 0))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.planned():
            rows = [row for rows in self.rows(self.number(step)) for row in rows]
            order = np.random.default_rng([self.seed, self.number(step), 1]).permutation(len(rows))
            share = self.share(step)
            yield [rows[place] for place in order[rank() * share : (rank() + 1) * share].tolist()]

    def number(self, step: int) -> int:
        """A step of the epoch, counted from the begin of the training."""
        return self.done_before + self.epoch * len(self) + step

    def share(self, step: int) -> int:
        """Samples of a step on each rank."""
        return self.batch_size // world_size()

    def taken(self, first: int, last: int) -> np.ndarray:
        """(S,) samples of each source in the steps from `first` to before `last`, counted from the begin."""
        before = self.counts.before(last)
        return before[last] - before[first]

    def rows(self, step: int) -> list[list[tuple[int, int]]]:
        """For each source the (pass, row) of its samples in a step, counted from the begin; none of one that is read in
        a row."""
        before = self.counts.before(step + 1)
        made = []
        for number, (offset, passes) in enumerate(zip(self.offsets, self.passes)):
            first, count = int(before[step, number]), int(before[step + 1, number] - before[step, number])
            if self.streamed[number]:
                rows = []
            elif self.mixture.replacement:
                rows = self._drawn_anew(number, step, count)
            else:
                rows = passes.rows(first, count, before[:, number])
            made.append([(each, offset + row) for each, row in rows])
        return made

    def parts(self, step: int) -> np.ndarray:
        """(S,) samples of each source in one unit of a step, counted from the begin."""
        return self.taken(step, step + 1) // (self.streams or 1)

    def mine(self) -> range:
        """The units of this rank."""
        each = (self.streams or 1) // world_size()
        return range(rank() * each, (rank() + 1) * each)

    def _drawn_anew(self, source: int, step: int, count: int) -> list[tuple[int, int]]:
        random, weights = np.random.default_rng([self.seed, step, 2, source]), self.within[source]
        if weights is None:
            rows = random.integers(self.sizes[source], size=count)
        else:
            ends = weights.cumsum(dtype=np.float64)
            rows = np.searchsorted(ends, random.random(count) * ends[-1], side="right").clip(max=len(ends) - 1)
        return [(step, row) for row in rows.tolist()]

    def _check_sizes(self, most: Sequence[int]) -> None:
        for name, in_batch, size, streamed in zip(self.mixture.names, most, self.sizes, self.streamed):
            if streamed and self.mixture.replacement:
                raise ConfigError(
                    f"source {name}: is read in sequence, so its samples cannot be drawn anew; omit "
                    "sources.replacement, or add --set data.order=global where the shards are on a disk"
                )
            if in_batch > size and not self.mixture.replacement:
                further = "" if streamed else ", or --set sources.replacement=yes"
                raise ConfigError(
                    f"source {name}: has {size:,} samples to train on, and its weight asks for {in_batch:,} in each "
                    f"batch of {self.batch_size:,}; give it less weight or a smaller --batch-size{further}"
                )
            if streamed and size < (self.streams or 1):
                raise ConfigError(
                    f"source {name}: {size:,} training samples for {self.streams} streams; give more, or fewer "
                    "processes"
                )

"""Batches for the training loop: made in small pieces by workers, put together here, one batch ahead of the towers."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..errors import CapabilityError, ConfigError
from ..features.extract import cores
from ..runtime.distributed import run_on_all, world_size
from .batches import BatchPlan, GlobalBatches, PlannedBatches, StreamBatches, streams_for
from .mixing import MixedBatches
from .samples import TRIES, Samples, collate
from .settings import TrainingSettings
from .sources import MixedSource, PairSource, StreamedSource, TrainingSource, in_sequence

PIECE = 32
"""Samples that a worker makes at once: a batch of any size is made of such pieces by all of them."""
PREFETCH_BYTES = 1 << 30
"""Of pieces that the workers of a process hold ready."""
AHEAD_BYTES = 4 << 30
"""Of a batch that is put together while the one before it is trained on; a larger one is when it is asked for."""
MOST_WORKERS = 16
"""Of a process, where the user names no number."""


def worker_count(workers: int | None, device: torch.device, streamed: bool) -> int:
    """Processes that decode images for each training process.

    None: where a GPU waits for them, or shards are read in a row, one per core that this process has of its machine;
    else none.
    """
    if workers is not None:
        return workers
    if device.type == "cpu" and not streamed:
        return 0
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_WORKERS, cores() // beside))


def planned_batches(
    source: TrainingSource,
    settings: TrainingSettings,
    workers: int,
    on_message: Callable[[str], None],
    plan: BatchPlan | None = None,
) -> GlobalBatches | StreamBatches:
    """Which samples the steps of a training see; `on_message` is told how a set is read in a row, or drawn by weights.

    Args:
        plan: of the batches, where the training brings one.

    Raises:
        ConfigError: the batch cannot be cut into equal parts.
        CapabilityError: a plan for a set that is read in a row.
    """
    size, how = len(source), (settings.drop_last, settings.steps)
    if plan is not None:
        if in_sequence(source):
            raise CapabilityError("batches of a plan need samples in any order; omit data.order")
        return PlannedBatches(size, plan, settings.seed, settings.steps)
    if isinstance(source, MixedSource):
        return _mixed_batches(source, settings, workers, on_message)
    if not isinstance(source, StreamedSource):
        batches = shuffled_batches(source, settings.batch_size, settings.seed, *how)
        if batches.weights is not None:
            less = batches.batch_size < min(settings.batch_size, size)
            rest = f"; they sum to less than a batch, so a step has {batches.batch_size:,}" if less else ""
            drawn = f"an epoch draws {batches.size:,} of {size:,} pairs, each as often as its weight says"
            on_message(f"Weights: {drawn}{rest}")
        return batches
    pairs = source.pairs
    streams = pairs.streams or streams_for(settings.batch_size, workers, size)
    batches = StreamBatches(size, settings.batch_size, streams, *how)
    on_message(
        f"Order: by shard. {len(pairs.shards):,} shards with {size:,} samples are read in sequence by {streams} "
        f"streams, shuffled by shard and among {pairs.block:,} samples; an epoch leaves {batches.left_out:,} samples "
        "out"
    )
    return batches


def _mixed_batches(
    source: MixedSource, settings: TrainingSettings, workers: int, on_message: Callable[[str], None]
) -> MixedBatches:
    streamed: list[Any] = [part.pairs for part in source.parts if isinstance(part, StreamedSource)]
    streams = None
    if streamed:
        smallest = min(len(pairs) for pairs in streamed)
        asked = [pairs.streams for pairs in streamed if pairs.streams]
        streams = asked[0] if asked else streams_for(settings.batch_size, workers, smallest)
    sizes = [len(part) for part in source.parts]
    batches = MixedBatches(
        source.mixture,
        sizes,
        settings.batch_size,
        settings.seed,
        settings.steps,
        weights=source.weights,
        streams=streams,
        streamed=source.streamed,
        drop_last=settings.drop_last,
    )
    shares = ", ".join(
        f"{name} {share:.1%} ({size:,} samples)"
        for name, share, size in zip(source.mixture.names, source.mixture.stages[0].shares, sizes)
    )
    kind = "each batch of one of them" if source.mixture.one else "each batch of all of them"
    on_message(f"Sources: {shares}; {kind}, an epoch of {len(batches):,} batches")
    return batches


def check_mixture(source: TrainingSource, settings: TrainingSettings, device: torch.device) -> None:
    """Raise the ConfigError of several sources whose batches cannot be made, or of a stage that never begins, before
    anything is computed."""
    if not isinstance(source, MixedSource):
        return
    workers = worker_count(settings.workers, device, in_sequence(source))
    batches = _mixed_batches(source, settings, workers, lambda line: None)
    steps = min(settings.epochs * len(batches), settings.steps or sys.maxsize)
    late = [stage.until for stage in source.mixture.stages if stage.until is not None and stage.until >= steps]
    if late:
        raise ConfigError(
            f"--stages: a stage ends after {late[0]:,} steps, and the training has {steps:,}, so that the next one "
            "never begins; give earlier ends, or more --epochs"
        )


def shuffled_batches(
    source: TrainingSource, batch_size: int, seed: int, drop_last: bool = True, steps: int | None = None
) -> GlobalBatches:
    """The batches of a set whose samples are read in any order: drawn by weights where it has some."""
    weights = source.weights if isinstance(source, PairSource) else None
    return GlobalBatches(len(source), batch_size, seed, drop_last, steps, weights)


class BatchLoader:
    """The batches of an epoch, as `batches` plans them; an mmengine loop takes it for a DataLoader.

    Where a sample cannot be had on one rank, all ranks end with that rank's line.

    Args:
        samples: makes a sample.
        batches: says which, or how many of each stream.
        workers: processes that make pieces; 0: this one makes whole batches.
        pin: whether batches lie in pinned memory, from where a GPU copies without waiting.
        sample_bytes: of a sample, about.

    Attributes:
        batch_sampler: the same as `batches`, by the name that a DataLoader has for it.
    """

    def __init__(
        self, samples: Samples, batches: GlobalBatches | StreamBatches, workers: int, pin: bool, sample_bytes: int = 1
    ):
        self.dataset, self.batch_sampler = samples, batches
        self.workers, self.pin, self.sample_bytes = workers, pin, sample_bytes

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shares = [self.batch_sampler.share(step) for step in self.batch_sampler.planned()]
        pieces = iter(self._pieces())
        whole = (_assembled(pieces, share, self.pin) for share in shares)
        made = _ahead(whole) if self.workers else whole
        for _ in shares:
            yield run_on_all(lambda: next(made)) if world_size() > 1 else next(made)

    def _pieces(self) -> DataLoader:
        """(place in the batch, piece), in the order of batches. Its own generator keeps torch's where it is."""
        batches = self.batch_sampler
        workers, kwargs = self.workers, {}
        if batches.streams is not None:
            mixed = isinstance(batches, MixedBatches)
            data: Dataset = MixedPieces(self.dataset, batches) if mixed else StreamedPieces(self.dataset, batches)
            workers = _sharing(len(batches.mine()), workers)
        else:
            data = IndexedPieces(self.dataset)
            kwargs["sampler"] = PiecePlan(batches, PIECE if workers else None)
        if workers:
            ready = PREFETCH_BYTES // (workers * PIECE * self.sample_bytes)
            kwargs |= {"prefetch_factor": max(1, min(4, ready)), "multiprocessing_context": "fork"}
        return DataLoader(
            data,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            generator=torch.Generator().manual_seed(0),
            persistent_workers=False,
            **kwargs,
        )


class PiecePlan:
    """For each piece of each batch of this rank: its place in the batch, and the (epoch, row) of its samples.

    Args:
        batches: of the epoch.
        size: samples of a piece; None: all of a batch.
    """

    def __init__(self, batches: GlobalBatches, size: int | None):
        self.batches, self.size = batches, size

    def __iter__(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        for rows in self.batches:
            size = self.size or len(rows)
            for place in range(0, len(rows), size):
                yield place, rows[place : place + size]


class IndexedPieces(Dataset):
    """Pieces of a set whose samples are asked for by number."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, piece: tuple[int, list[tuple[int, int]]]) -> tuple[int, dict[str, Any]]:
        place, rows = piece
        return place, collate([self.samples[row] for row in rows], self.samples.token_mask)


class StreamedPieces(IterableDataset):
    """Pieces of a set that is read in a row: each worker reads streams of its own, and gives of each its part of a
    batch.

    Args:
        samples: their source is a `StreamedSource`.
        batches: which streams this rank reads, and how far they are.
    """

    def __init__(self, samples: Samples, batches: StreamBatches):
        self.samples, self.batches = samples, batches

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        info, batches = get_worker_info(), self.batches
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        mine = batches.mine()
        read = {stream: self._samples(stream) for stream in mine[worker::workers]}
        for step in batches.planned():
            part = batches.part(step)
            for i in range(0, part, PIECE):
                for stream, samples in read.items():
                    piece = [next(samples) for _ in range(min(PIECE, part - i))]
                    yield (stream - mine[0]) * part + i, collate(piece, self.samples.token_mask)

    def _samples(self, stream: int) -> Iterator[dict[str, Any]]:
        source: Any = self.samples.source
        stretch = self.batches.stretch(stream)
        return _stretch_of(self.samples, source.pairs, source.part, self.batches.epoch, *stretch)


class MixedPieces(IterableDataset):
    """Pieces of several sources, some of which are read in a row: each worker makes units of its own.

    Args:
        samples: their source is a `MixedSource`.
        batches: which units this rank makes, and how far their streams are.
    """

    def __init__(self, samples: Samples, batches: MixedBatches):
        self.samples, self.batches = samples, batches

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        info, batches = get_worker_info(), self.batches
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        mine, planned = batches.mine(), batches.planned()
        source: Any = self.samples.source
        assert batches.streams is not None
        in_rows = [number for number, streamed in enumerate(source.streamed) if streamed]
        before = batches.counts.before(batches.number(planned.start))[-1]
        streams = {
            (unit, number): self._stream(number, unit, int(before[number]) // batches.streams)
            for unit in mine[worker::workers]
            for number in in_rows
        }
        for step in planned:
            step = batches.number(step)
            parts, rows = batches.parts(step).tolist(), batches.rows(step)
            for unit in mine[worker::workers]:
                made = (
                    sample
                    for number, part in enumerate(parts)
                    for sample in (
                        islice(streams[unit, number], part)
                        if source.streamed[number]
                        else (self.samples[row] for row in rows[number][unit * part : (unit + 1) * part])
                    )
                )
                place = (unit - mine[0]) * sum(parts)
                while piece := list(islice(made, PIECE)):
                    yield place, collate(piece, self.samples.token_mask)
                    place += len(piece)

    def _stream(self, number: int, stream: int, done: int) -> Iterator[dict[str, Any]]:
        """Of a source that is read in a row all that a stream gives after its first samples, pass by pass."""
        source: Any = self.samples.source
        pairs, offset = source.parts[number].pairs, int(source.offsets[number])
        assert self.batches.streams is not None
        length = len(pairs) // self.batches.streams
        first, start = divmod(done, length)
        for epoch in count(first):
            part = partial(source.with_block, number)
            stretch = stream * length, (stream + 1) * length, start
            yield from _stretch_of(self.samples, pairs, part, epoch, *stretch, offset=offset)
            start = 0


def _stretch_of(
    samples: Samples,
    pairs: Any,
    part: Callable[[dict[int, Any]], TrainingSource],
    epoch: int,
    begin: int,
    end: int,
    start: int,
    offset: int = 0,
) -> Iterator[dict[str, Any]]:
    """The samples of a stretch of shards, in their order of an epoch.

    Args:
        pairs: the shards.
        part: makes a source of samples in memory, row in the shards -> sample.
        begin, end, start: as of `ShardOrder.blocks`.
        offset: of the rows in that source.
    """
    reader, order = pairs.reader(), pairs.order(samples.seed)
    for runs, chosen in order.blocks(epoch, begin, end, start):
        rows = [row for run in runs for row in pairs.rows(run)]
        block = dict(zip(rows, (sample for run in runs for sample in reader.read(run)), strict=True))
        of_block = replace(samples, source=part(block))
        for at in chosen.tolist():
            tried = (offset + rows[(at + attempt) % len(rows)] for attempt in range(min(TRIES, len(rows))))
            yield of_block.first_readable(epoch, tried)


def refuse_whole_passes(source: TrainingSource, asking: str) -> Callable[..., Any]:
    """In place of what extracts outputs of a whole set: there is no pass over one that is read in a row.

    Raises:
        CapabilityError: when it is called.
    """

    def refused(names: list[str]) -> Any:
        raise CapabilityError(
            f"loss {asking} reads all {len(source):,} samples before each epoch, and a set read in sequence is too "
            "large for that; use another loss, or --set data.order=global where the shards are on a disk"
        )

    return refused


def _as_it_is(piece: Any) -> Any:
    """What torch does by itself would make tensors of lengths, which stay with the host."""
    return piece


def _sharing(streams: int, workers: int) -> int:
    """As many workers as share the streams equally."""
    return max((n for n in range(1, workers + 1) if streams % n == 0), default=0)


def _assembled(pieces: Iterator[tuple[int, dict[str, Any]]], share: int, pin: bool) -> dict[str, Any]:
    """A batch of so many samples; no piece is kept, so memory holds one batch and what the workers have ready."""
    batch: dict[str, Any] = {}
    broken: list[tuple[str, str]] = []
    done = 0
    while done < share:
        place, piece = next(pieces)
        broken += piece.pop("broken")
        count = len(piece["index"])
        if count == share and not pin:
            return {**piece, "broken": broken}
        if not batch:
            batch = {name: _room(value, share, pin) for name, value in piece.items()}
        for name, value in piece.items():
            # By numpy, whose copy starts no threads: torch's of this thread would be in the way of the towers'.
            np.asarray(batch[name])[place : place + count] = value
        done += count
    return {**batch, "broken": broken}


def _room(value: Tensor | np.ndarray, share: int, pin: bool) -> Tensor | np.ndarray:
    if isinstance(value, np.ndarray):
        return np.empty((share, *value.shape[1:]), value.dtype)
    return torch.empty((share, *value.shape[1:]), dtype=value.dtype, pin_memory=pin)


def _ahead(batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, the next one made while the one before it is used, if that fits into memory."""
    first = next(batches, None)
    if first is None:
        return
    yield first
    if sum(value.nbytes for value in first.values() if isinstance(value, (Tensor, np.ndarray))) > AHEAD_BYTES:
        yield from batches
        return
    del first
    ready: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()
    thread = threading.Thread(target=partial(_fill, batches, ready, stopped), daemon=True)
    thread.start()
    try:
        while (made := ready.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                ready.get(timeout=0.05)
            except queue.Empty:
                continue
        thread.join()


def _fill(batches: Iterator[dict[str, Any]], ready: queue.Queue, stopped: threading.Event) -> None:
    try:
        for batch in batches:
            ready.put(batch)
            if stopped.is_set():
                return
        ready.put(None)
    except BaseException as error:  # the loop raises it where it waits
        ready.put(error)

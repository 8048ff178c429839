"""Images through a tower: decoded by a bounded window of threads, encoded in micro-batches of a measured size.

Memory does not grow with the number of images: at most two batches of pixels, and one decoded image per thread, are
held. A sample with pixels (T, 3, S, S) is encoded part by part: frames of a clip, slices of a volume, windows of a
raster. One with pixels (1, T, 3, S, S) goes whole through a tower that sees its parts together, and gives one vector,
or one of each part. The best number of images to encode at once is found by timing the work itself (`BatchSizeTuner`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.features import PATCH_TOKENS, PRE_PROJECTION, PROJECTED, TAPS, VALUE_TOKENS
from ..contracts.items import Decoded, Item
from ..errors import CacheError, CapabilityError, ConfigError, DataError, SourceError, no_memory, one_line
from ..runtime.process import cores

AMP = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}
VIEWS_A_JOB = 8
MOST_AHEAD = 1024
"""Pieces of pixels that may be under way only so that no thread is idle: 0.6 GB at 224 x 224."""


@dataclass(frozen=True)
class DecodeJob:
    """One image to decode, and what is wanted of it.

    Args:
        item: the sample.
        keys: one per row wanted.
        seeds: as many; of the augmentation, or None for the image as it is.
        stored: as many; which parts need not be encoded again, None among them for the image as it is. By default all
            are encoded.
    """

    item: Item
    keys: tuple[bytes, ...]
    seeds: tuple[int | None, ...]
    stored: tuple[frozenset[int | None], ...] = ()


class Piece(NamedTuple):
    """What passes through the tower at once: an image as it is, one part of a sample, or several that it sees together.

    Args:
        key: of the row it belongs to.
        part: which part, the first of several, None for an image as it is.
        of: how many parts the sample has, 0 for an image as it is.
        together: how many parts it is.
    """

    key: bytes
    part: int | None
    of: int
    together: int = 1

    @property
    def each(self) -> list[Piece]:
        """One of each part."""
        if self.together == 1:
            return [self]
        return [Piece(self.key, (self.part or 0) + place, self.of) for place in range(self.together)]


@dataclass(frozen=True)
class Encoded:
    """Features (n, D) float32 of n pieces."""

    pieces: list[Piece]
    rows: np.ndarray

    @property
    def keys(self) -> list[bytes]:
        return [piece.key for piece in self.pieces]


@dataclass(frozen=True)
class Counted:
    """Samples that were decoded only to learn how many parts they have: one piece of each."""

    pieces: list[Piece]


@dataclass(frozen=True)
class UnreadableKeys:
    """Keys without features, and why in one line."""

    keys: tuple[bytes, ...]
    reason: str


def extract(
    jobs: Iterable[DecodeJob],
    render: Callable[[DecodeJob], list[Tensor]],
    encode: Callable[[Tensor], Tensor],
    tuner: BatchSizeTuner,
    workers: int | None = None,
    pin: bool = False,
    each_part: bool = False,
) -> Generator[Encoded | Counted | UnreadableKeys, None, None]:
    """Features of all jobs, batch by batch, in the order of the jobs.

    Args:
        jobs: what to do; taken as far ahead as they are decoded.
        render: job -> pixels (3, S, S), or (T, 3, S, S) of a sample of T parts, one tensor per key; called in threads.
            What it raises makes the job unreadable.
        encode: pixels (B, 3, S, S) on the CPU -> features (B, D), called in this thread; (B, T, D) of parts that are
            seen together, (B, T, 3, S, S), where `each_part` asks for a vector of each.
        tuner: how many images or parts at once.
        workers: decoding threads; by default one per CPU core.
        pin: gather pixels in page-locked memory, from which a GPU copies while it works.
    """
    count = max(1, cores() if workers is None else workers)
    threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
    window = _Window(threads, count, jobs, render, pin, each_part)
    try:
        batch = window.take(tuner.size, settle=tuner.measuring)
        while batch is not None:
            pieces, pixels = batch
            started = time.perf_counter()
            features = _within_memory(encode, pixels, tuner)
            if tuner.measuring:
                features = features.cpu()  # waits for the device, so that the time is that of the work
                tuner.record(len(pieces), time.perf_counter() - started)
            try:  # on a GPU the next batch is gathered while this one is worked on
                batch = window.take(tuner.size, settle=tuner.measuring)
            finally:  # an interrupt while waiting for pixels loses no finished batch
                yield from window.news()
                yield from _finite_rows([one for piece in pieces for one in piece.each], _one_by_one(features))
        yield from window.news()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


class PartMeans:
    """Means of parts that come one by one, in float64; of samples whose parts are not all there only a sum is held."""

    def __init__(self):
        self._sums: dict[bytes, np.ndarray] = {}
        self._left: dict[bytes, int] = {}

    def add(self, key: bytes, of: int, row: np.ndarray) -> np.ndarray | None:
        """(D,) float32 mean of the sample's `of` parts when this was the last of them, else None."""
        self._sums[key] = self._sums.get(key, 0.0) + row.astype(np.float64)
        self._left[key] = self._left.get(key, of) - 1
        if self._left[key]:
            return None
        del self._left[key]
        return (self._sums.pop(key) / of).astype(np.float32)


def averaged(results: Iterator[Encoded | Counted | UnreadableKeys]) -> Iterator[Encoded | UnreadableKeys]:
    """What `extract` gives, with one row per sample: of samples with parts, the mean of these."""
    means = PartMeans()
    for result in results:
        if isinstance(result, UnreadableKeys):
            yield result
        elif isinstance(result, Encoded):
            rows = {
                piece.key: row if piece.part is None else means.add(piece.key, piece.of, row)
                for piece, row in zip(result.pieces, result.rows)
            }
            whole = {key: row for key, row in rows.items() if row is not None}
            if whole:
                yield Encoded([Piece(key, None, 0) for key in whole], np.stack(list(whole.values())))


def renderer(
    load: Callable[[Item], Decoded], transform: Callable, view_transform: Callable | None
) -> Callable[[DecodeJob], list[Tensor]]:
    """Job -> pixels, decoding its image once."""

    def render(job: DecodeJob) -> list[Tensor]:
        decoded = load(job.item)
        return [transform(decoded) if seed is None else view_transform(decoded, seed=seed) for seed in job.seeds]

    return render


def encoder(backbone: Backbone, tap: str, amp: str | None, each_part: bool = False) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, S, S) on the CPU -> features (B, D) float32 on the backbone's device, not normalised; the tokens of
    an image's P patches are one row (P * D,).

    Of samples with parts, (B, T, 3, S, S), the parts' features are averaged, where the tower does not see them
    together; with `each_part` they are given, (B, T, D). The backbone's model is built at the first call.

    Raises:
        ConfigError: an unknown tap or amp.
        CapabilityError: the backbone has no such tap, or sees parts together and so has projected features alone.
    """
    check_tap(backbone, tap)
    check_amp(amp)
    if tap != PROJECTED and backbone.joint is not None:
        raise CapabilityError(f"backbone '{backbone.spec}' encodes parts together; use its projected features")

    def taken(pixels: Tensor) -> Tensor:
        if tap in (PATCH_TOKENS, VALUE_TOKENS):
            tokens = backbone.image_tokens if tap == PATCH_TOKENS else backbone.value_tokens
            return tokens(pixels)[0].flatten(1)  # (B, P * D)
        return backbone.hidden(pixels) if tap == PRE_PROJECTION else backbone.encode_image(pixels, False)

    def encode(pixels: Tensor) -> Tensor:
        _ = backbone.model  # built here, outside of inference mode, or its weights could never be trained
        autocast = torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None)
        with torch.inference_mode(), autocast:
            pixels = pixels.to(backbone.device, non_blocking=True)
            if each_part and pixels.ndim == 5:
                return backbone.encode_parts(pixels).float()
            together = backbone.joint is not None or backbone.of_parts
            clips = pixels.shape[:2] if pixels.ndim == 5 and not together else None
            pixels = pixels.flatten(0, 1) if clips else pixels  # (B * T, 3, S, S)
            features = taken(pixels)
            return (features.unflatten(0, clips).mean(dim=1) if clips else features).float()

    return encode


def plain_encoder(backbone: Backbone, amp: str | None) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, S, S) -> features (B, D) float32, not normalised, under the gradient mode of the caller."""

    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
            return backbone.encode_image(pixels.to(backbone.device, non_blocking=True), normalize=False).float()

    return encode


def check_tap(backbone: Backbone, tap: str) -> None:
    """Raise the ConfigError of an unknown tap, or the CapabilityError of a backbone that has no such tap."""
    if tap not in TAPS:
        raise ConfigError(f"tap '{tap}': give one of {', '.join(TAPS)}")
    if TAPS[tap] is not None:
        backbone.need(TAPS[tap])


def check_amp(amp: str | None) -> None:
    """Raise the ConfigError of an unknown precision."""
    if amp not in AMP:
        raise ConfigError(f"--amp {amp}: give bf16 or fp16, or omit it for full precision")


class _Window:
    """Rendered pixels in the order of the jobs, some way ahead of who takes them and no further."""

    def __init__(
        self, threads: ThreadPoolExecutor, count: int, jobs: Iterable[DecodeJob], render, pin: bool, each: bool
    ):
        self._threads, self._count, self._render, self._pin, self._each = threads, count, render, pin, each
        self._waiting = _small_jobs(jobs)
        self._running: deque[tuple[DecodeJob, Future]] = deque()
        self._ready: deque[tuple[Piece, Tensor]] = deque()
        self._news: list[Counted | UnreadableKeys] = []
        self._per_key = 1  # pieces, as far as the last decoded sample shows

    def take(self, size: int, settle: bool) -> tuple[list[Piece], Tensor] | None:
        """Up to `size` pieces and their pixels (n, 3, S, S); None at the end.

        With `settle`, decoding ahead is waited for, so that it does not disturb a measurement.
        """
        while len(self._ready) < size:
            self._submit(2 * size)
            if not self._running:
                break
            job, future = self._running.popleft()
            try:
                decoded = [_pieces(key, pixels, self._each) for key, pixels in zip(job.keys, future.result())]
            except (CacheError, SourceError):
                raise
            except Exception as error:  # a decoder of any library may raise anything on a damaged file
                self._news.append(UnreadableKeys(job.keys, one_line(error)))
                continue
            self._sort_out(job, decoded)
        if not self._ready:
            return None
        taken = [self._ready.popleft() for _ in range(min(size, len(self._ready)))]
        self._submit(2 * size)
        if settle:
            wait([future for _, future in self._running])
        return [piece for piece, _ in taken], self._stacked([pixels for _, pixels in taken])

    def news(self) -> list[Counted | UnreadableKeys]:
        """What was met since the last call and needs no tower."""
        news, self._news = self._news, []
        return news

    def _sort_out(self, job: DecodeJob, decoded: list[list[tuple[Piece, Tensor]]]) -> None:
        """Keep what is to be encoded."""
        for pieces, stored in zip(decoded, job.stored or repeat(frozenset())):
            self._per_key = len(pieces)
            wanted = [(piece, pixels) for piece, pixels in pieces if any(one.part not in stored for one in piece.each)]
            self._ready.extend(wanted)
            if not wanted:
                self._news.append(Counted([pieces[0][0]]))

    def _stacked(self, pixels: list[Tensor]) -> Tensor:
        if not self._pin:
            return torch.stack(pixels)
        shape = (len(pixels), *pixels[0].shape)
        return torch.stack(pixels, out=torch.empty(shape, dtype=pixels[0].dtype, pin_memory=True))

    def _submit(self, rows: int) -> None:
        """Keep `rows` pieces under way, and one job per thread unless samples have very many parts."""
        ahead = len(self._ready) + self._per_key * sum(len(job.keys) for job, _ in self._running)
        while ahead < rows or (len(self._running) < self._count and ahead < MOST_AHEAD):
            job = next(self._waiting, None)
            if job is None:
                return
            self._running.append((job, self._threads.submit(self._render, job)))
            ahead += self._per_key * len(job.keys)


def _small_jobs(jobs: Iterable[DecodeJob]) -> Iterator[DecodeJob]:
    """Jobs of a few views each: an image with very many views is decoded more than once rather than held in all."""
    for job in jobs:
        for i in range(0, len(job.keys), VIEWS_A_JOB):
            some = slice(i, i + VIEWS_A_JOB)
            yield DecodeJob(job.item, job.keys[some], job.seeds[some], job.stored[some])


def _pieces(key: bytes, pixels: Tensor, each: bool = False) -> list[tuple[Piece, Tensor]]:
    """What of one sample goes through the tower: pixels (3, S, S) as they are, (T, 3, S, S) part by part, all parts of
    (1, T, 3, S, S) at once, which are one part unless each is asked for.

    Raises:
        DataError: no part, or pixels of another shape.
    """
    if pixels.ndim == 3:
        return [(Piece(key, None, 0), pixels)]
    if pixels.ndim not in (4, 5) or not len(pixels):
        shape = tuple(pixels.shape)
        raise DataError(f"its pixels have shape {shape}; (3, S, S), or (T, 3, S, S) with at least one part, is needed")
    count = pixels.shape[1] if each and pixels.ndim == 5 else 1
    return [(Piece(key, place * count, len(pixels) * count, count), one) for place, one in enumerate(pixels)]


def _one_by_one(features: Tensor) -> np.ndarray:
    """(B, D), or (B, T, D) of parts that were seen together -> a row of each."""
    return (features.flatten(0, 1) if features.ndim == 3 else features).cpu().numpy()


def _within_memory(encode, pixels: Tensor, tuner: BatchSizeTuner) -> Tensor:
    """encode(pixels), in halves where there is too little memory for all."""
    try:
        return encode(pixels)
    except (RuntimeError, MemoryError) as error:
        if not no_memory(error) or (len(pixels) == 1 and not isinstance(error, torch.cuda.OutOfMemoryError)):
            raise
        if len(pixels) == 1:
            raise CapabilityError(
                "the device has too little free memory for one image; free some, or use --device cpu"
            ) from error
    half = len(pixels) // 2
    tuner.limit(half)
    return torch.cat([_within_memory(encode, part, tuner) for part in (pixels[:half], pixels[half:])])


def _finite_rows(pieces: list[Piece], rows: np.ndarray) -> Iterator[Encoded | UnreadableKeys]:
    finite = np.isfinite(rows).all(axis=1)
    for i in (~finite).nonzero()[0]:
        what = "it" if pieces[i].part is None else f"part {pieces[i].part} of it"
        yield UnreadableKeys((pieces[i].key,), f"the backbone gives NaN or infinity for {what}")
    if finite.all():
        yield Encoded(pieces, rows)
    elif finite.any():
        yield Encoded([piece for piece, good in zip(pieces, finite) if good], rows[finite])


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Towers in eval mode for a while; then each module is as it was: some may be frozen in a model that trains."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


CPU_SIZES = (1, 2, 4, 8, 16, 32)
GPU_SIZES = (8, 16, 32, 64, 128, 256)
TRIALS = 3
WORSE = 1.10
"""A size is clearly worse than the best from this ratio of times on; after two such in a row the search ends."""


class BatchSizeTuner:
    """How many images to take next.

    Args:
        size: a fixed size; or None: `sizes` are tried in turn, each `TRIALS` times, and the one with the least time an
            image is kept. The least of several times is compared: what disturbs a measurement only adds to it.
        sizes: what to try, growing.

    Raises:
        ConfigError: a size below 1.
    """

    def __init__(self, size: int | None = None, sizes: Sequence[int] = CPU_SIZES):
        if size is not None and size < 1:
            raise ConfigError(f"--batch-size {size}: give 1 or more, or omit it to measure the best one")
        self.size = size or sizes[0]
        self._untried = [] if size else list(sizes[1:])
        self._times: dict[int, list[float]] = {}
        self.measuring = size is None

    def record(self, count: int, seconds: float) -> None:
        """Tell how long a batch took. A batch of another size than the one asked for (the last one) does not count."""
        if not self.measuring or count != self.size:
            return
        times = self._times.setdefault(count, [])
        times.append(seconds / count)
        if len(times) < TRIALS:
            return
        if self._untried and not self._past_the_best():
            self.size = self._untried.pop(0)
        else:
            self._settle()

    def limit(self, size: int) -> None:
        """No batch above `size` from now on: the device has no room."""
        self._times = {tried: times for tried, times in self._times.items() if tried <= size}
        self._untried = []
        if self._times:
            self._settle()
        else:
            self.size, self.measuring = size, False

    def _past_the_best(self) -> bool:
        best = self._best_times()
        last = list(best.values())[-2:]
        return len(best) > 2 and all(time > WORSE * min(best.values()) for time in last)

    def _settle(self) -> None:
        best = self._best_times()
        self.size = min(best, key=best.get)
        self.measuring = False

    def _best_times(self) -> dict[int, float]:
        return {size: min(times) for size, times in self._times.items()}

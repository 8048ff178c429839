"""Images through a tower: decoded by a bounded window of threads, encoded in micro-batches of a measured size.

Memory does not grow with the number of images: at most two batches of pixels, and one decoded image a thread, are held.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.domain import Decoded, Item
from ..contracts.errors import CapabilityError, ConfigError, DataError
from ..contracts.features import PRE_PROJECTION, PROJECTED
from .micro_batch import MicroBatch

AMP = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}
VIEWS_A_JOB = 8
REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Job:
    """One image to decode, and what is wanted of it.

    Args:
        item: the sample.
        keys: one a row wanted.
        seeds: as many; of the augmentation, or None for the image as it is.
    """

    item: Item
    keys: tuple[bytes, ...]
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Encoded:
    """Features (n, D) float32 of n keys."""

    keys: list[bytes]
    rows: np.ndarray


@dataclass(frozen=True)
class Unreadable:
    """Keys without features, and why in one line."""

    keys: tuple[bytes, ...]
    reason: str


def extract(
    jobs: Sequence[Job],
    render: Callable[[Job], list[Tensor]],
    encode: Callable[[Tensor], Tensor],
    micro_batch: MicroBatch,
    workers: int | None = None,
    pin: bool = False,
) -> Iterator[Encoded | Unreadable]:
    """Features of all jobs, batch by batch, in the order of the jobs.

    Args:
        jobs: what to do.
        render: job -> pixels (3, S, S), one tensor a key; called in threads. What it raises makes the job unreadable.
        encode: pixels (B, 3, S, S) on the CPU -> features (B, D), called in this thread.
        micro_batch: how many images at once.
        workers: decoding threads; by default one a CPU core.
        pin: gather pixels in page-locked memory, from which a GPU copies while it works.
    """
    count = max(1, cores() if workers is None else workers)
    threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
    window = _Window(threads, count, jobs, render, pin)
    try:
        batch = window.take(micro_batch.size, settle=micro_batch.measuring)
        while batch is not None:
            keys, pixels = batch
            started = time.perf_counter()
            features = _within_memory(encode, pixels, micro_batch)
            if micro_batch.measuring:
                features = features.cpu()  # waits for the device, so that the time is that of the work
                micro_batch.record(len(keys), time.perf_counter() - started)
            try:  # on a GPU the next batch is gathered while this one is worked on
                batch = window.take(micro_batch.size, settle=micro_batch.measuring)
            finally:  # an interrupt while waiting for pixels loses no finished batch
                yield from window.unreadable()
                yield from _finite_rows(keys, features.cpu().numpy())
        yield from window.unreadable()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def renderer(
    load: Callable[[Item], Decoded], transform: Callable, view_transform: Callable | None
) -> Callable[[Job], list[Tensor]]:
    """Job -> pixels, decoding its image once."""

    def render(job: Job) -> list[Tensor]:
        decoded = load(job.item)
        return [transform(decoded) if seed is None else view_transform(decoded, seed=seed) for seed in job.seeds]

    return render


def encoder(backbone: Backbone, tap: str, amp: str | None) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, S, S) on the CPU -> features (B, D) float32 on the backbone's device, not normalised.

    Of clips (B, T, 3, S, S) the frames' features are averaged. The backbone's model is built at the first call.

    Raises:
        ConfigError: an unknown tap or amp; CapabilityError: the backbone has no such tap.
    """
    if tap not in (PROJECTED, PRE_PROJECTION):
        raise ConfigError(f"tap '{tap}': there are {PROJECTED} and {PRE_PROJECTION}")
    if amp not in AMP:
        raise ConfigError(f"--amp {amp}: there are bf16 and fp16 (none: full precision)")
    if tap == PRE_PROJECTION:
        backbone.need("hidden")

    def encode(pixels: Tensor) -> Tensor:
        _ = backbone.model  # built here, outside of inference mode, or its weights could never be trained
        autocast = torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None)
        with torch.inference_mode(), autocast:
            pixels = pixels.to(backbone.device, non_blocking=True)
            clips = pixels.shape[:2] if pixels.ndim == 5 else None
            pixels = pixels.flatten(0, 1) if clips else pixels  # (B * T, 3, S, S)
            features = backbone.hidden(pixels) if tap == PRE_PROJECTION else backbone.encode_image(pixels, False)
            return (features.unflatten(0, clips).mean(dim=1) if clips else features).float()

    return encode


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_line(error: BaseException) -> str:
    """Why an image cannot be used: our own message as it is, a decoder's with its type, on one line."""
    text = " ".join(str(error).split())
    if not isinstance(error, DataError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:REASON_CHARACTERS]


class _Window:
    """Rendered pixels in the order of the jobs, some way ahead of who takes them and no further."""

    def __init__(self, threads: ThreadPoolExecutor, count: int, jobs: Sequence[Job], render, pin: bool):
        self._threads, self._count, self._render, self._pin = threads, count, render, pin
        self._waiting = deque(_small_jobs(jobs))
        self._running: deque[tuple[Job, Future]] = deque()
        self._ready: deque[tuple[bytes, Tensor]] = deque()
        self._unreadable: list[Unreadable] = []

    def take(self, size: int, settle: bool) -> tuple[list[bytes], Tensor] | None:
        """Up to `size` keys and their pixels (n, 3, S, S); None at the end.

        With `settle`, decoding ahead is waited for, so that it does not disturb a measurement.
        """
        while len(self._ready) < size:
            self._submit(2 * size)
            if not self._running:
                break
            job, future = self._running.popleft()
            try:
                pixels = future.result()
            except Exception as error:  # a decoder of any library may raise anything on a damaged file
                self._unreadable.append(Unreadable(job.keys, one_line(error)))
                continue
            self._ready.extend(zip(job.keys, pixels))
        if not self._ready:
            return None
        taken = [self._ready.popleft() for _ in range(min(size, len(self._ready)))]
        self._submit(2 * size)
        if settle:
            wait([future for _, future in self._running])
        return [key for key, _ in taken], self._stacked([pixels for _, pixels in taken])

    def unreadable(self) -> list[Unreadable]:
        """Those met since the last call."""
        found, self._unreadable = self._unreadable, []
        return found

    def _stacked(self, pixels: list[Tensor]) -> Tensor:
        if not self._pin:
            return torch.stack(pixels)
        shape = (len(pixels), *pixels[0].shape)
        return torch.stack(pixels, out=torch.empty(shape, dtype=pixels[0].dtype, pin_memory=True))

    def _submit(self, rows: int) -> None:
        """Keep `rows` rows, and one job a thread, under way."""
        ahead = len(self._ready) + sum(len(job.keys) for job, _ in self._running)
        while self._waiting and (ahead < rows or len(self._running) < self._count):
            job = self._waiting.popleft()
            self._running.append((job, self._threads.submit(self._render, job)))
            ahead += len(job.keys)


def _small_jobs(jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs of a few views each: an image with very many views is decoded more than once rather than held in all."""
    for job in jobs:
        for i in range(0, len(job.keys), VIEWS_A_JOB):
            yield Job(job.item, job.keys[i : i + VIEWS_A_JOB], job.seeds[i : i + VIEWS_A_JOB])


def _within_memory(encode, pixels: Tensor, micro_batch: MicroBatch) -> Tensor:
    """encode(pixels), in halves where the device has too little memory for all."""
    try:
        return encode(pixels)
    except torch.cuda.OutOfMemoryError as error:
        if len(pixels) == 1:
            raise CapabilityError(
                "the device has too little free memory for one image; free some, or use --device cpu"
            ) from error
    half = len(pixels) // 2
    micro_batch.limit(half)
    return torch.cat([_within_memory(encode, part, micro_batch) for part in (pixels[:half], pixels[half:])])


def _finite_rows(keys: list[bytes], rows: np.ndarray) -> Iterator[Encoded | Unreadable]:
    finite = np.isfinite(rows).all(axis=1)
    for i in (~finite).nonzero()[0]:
        yield Unreadable((keys[i],), "the backbone gives NaN or infinity for it")
    if finite.all():
        yield Encoded(keys, rows)
    elif finite.any():
        yield Encoded([key for key, good in zip(keys, finite) if good], rows[finite])


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Towers in eval mode for a while; then each module is as it was: some may be frozen in a model that trains."""
    found = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in found:
            module.training = training

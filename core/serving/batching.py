"""Images of all requests answered together: what has come goes through the model at once, up to its best number."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..contracts.serving import Sample, Served

LINGER_S = 0.003
"""How long a model waits for images that are being decoded, where it could take more."""
TRIALS = 4


@dataclass
class _Waiting:
    """The samples of a request, and who is told when the last one is answered."""

    left: int
    done: asyncio.Future


class Batcher:
    """One thread that asks the model.

    Args:
        model: whose `answer` is called in that thread alone.
        most: samples at once.
        answered: told the number of samples and the seconds of each batch, in that thread.
    """

    def __init__(self, model: Served, most: int, answered: Callable[[int, float], None] = lambda count, seconds: None):
        self.model, self.most, self._answered = model, most, answered
        self.coming = 0  # images that are being decoded
        self._queue: deque[tuple[Sample, _Waiting]] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        """Start in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """End when all that waits is answered."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join()

    async def answer(self, samples: Sequence[Sample]) -> None:
        """Wait until all samples have their answers, or errors in their place."""
        if not samples:
            return
        waiting = _Waiting(len(samples), asyncio.get_running_loop().create_future())
        with self._news:
            self._queue.extend((sample, waiting) for sample in samples)
            self._news.notify()
        await waiting.done

    def _run(self) -> None:
        while batch := self._next():
            started = time.perf_counter()
            answer_each(self.model, [sample for sample, _ in batch])
            self._answered(len(batch), time.perf_counter() - started)
            self._loop.call_soon_threadsafe(self._tell, [waiting for _, waiting in batch])

    def _next(self) -> list[tuple[Sample, _Waiting]]:
        """What goes through the model next; empty at the end."""
        with self._news:
            while not self._queue and not self._closed:
                self._news.wait()
            end = time.monotonic() + LINGER_S
            while 0 < len(self._queue) < self.most and self.coming > 0 and (left := end - time.monotonic()) > 0:
                self._news.wait(left)
            return [self._queue.popleft() for _ in range(min(self.most, len(self._queue)))]

    @staticmethod
    def _tell(batch: Sequence[_Waiting]) -> None:
        for waiting in batch:
            waiting.left -= 1
            if not waiting.left and not waiting.done.done():
                waiting.done.set_result(None)


def answer_each(model: Served, samples: Sequence[Sample]) -> None:
    """Answer samples at once; where that fails, each by itself, so that one that cannot be answered costs no other its
    answer."""
    try:
        model.answer(samples)
    except Exception as error:
        if len(samples) == 1:
            samples[0].answer = error
            return
        for sample in samples:
            answer_each(model, [sample])


def best_batch(model: Served) -> int:
    """The number of samples at once beyond which a larger one saves nothing per sample, by the model's own clock, which
    other work on the machine does not move; measured, which warms the model up too. Still larger ones are not tried:
    they would take memory that some libraries never give back. The middle of `sizes` where no sample can be made up.
    """
    if not model.examples(1):
        return model.sizes[len(model.sizes) // 2]
    best, least = 0, math.inf
    for size in model.sizes:
        cost = min(_seconds(model, size) for _ in range(TRIALS)) / size
        if cost >= least:
            break
        best, least = size, cost
    return best


def _seconds(model: Served, size: int) -> float:
    samples = model.examples(size)  # new ones, since an answer may use them up
    started = model.clock()
    model.answer(samples)
    return model.clock() - started

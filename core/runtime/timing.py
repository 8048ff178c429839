"""Where the seconds of a command go: parts that its code names, measured only where somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

START, OTHER = "start and imports", "other"


class Timing:
    """Seconds by part; each second counts for the innermost part that it was spent in.

    Attributes:
        seconds: part -> (of the processor, on the clock). `START` is what the process has done so far, `OTHER` what
            belongs to no part.
    """

    def __init__(self):
        self.seconds: dict[str, tuple[float, float]] = {START: (0.0, 0.0), OTHER: (0.0, 0.0)}
        self._names = [START]
        self._cpu, self._clock = 0.0, time.perf_counter()

    def begin(self, name: str) -> None:
        """From here on, until `end`, seconds are of this part."""
        self._count()
        self._names.append(name)

    def end(self) -> None:
        self._count()
        self._names.pop()

    def _count(self) -> None:
        cpu, clock, name = time.process_time(), time.perf_counter(), self._names[-1]
        before = self.seconds.get(name, (0.0, 0.0))
        self.seconds[name] = (before[0] + cpu - self._cpu, before[1] + clock - self._clock)
        self._cpu, self._clock = cpu, clock


_timing: ContextVar[Timing | None] = ContextVar("timing", default=None)


@contextmanager
def timed(timing: Timing | None) -> Iterator[None]:
    """A context in which parts are measured; None measures nothing."""
    if timing is None:
        yield
        return
    before = _timing.set(timing)
    timing.begin(OTHER)
    try:
        yield
    finally:
        timing.end()
        _timing.reset(before)


@contextmanager
def part(name: str) -> Iterator[None]:
    """A part of a command, as a context or as a decorator."""
    timing = _timing.get()
    if timing is None:
        yield
        return
    timing.begin(name)
    try:
        yield
    finally:
        timing.end()

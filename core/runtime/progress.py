"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere; always on stderr.

And where the seconds of a command go: parts that its code names, measured only where somebody asks (`Timing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console

from ..errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.text import Text

T = TypeVar("T")
PLAIN_EVERY_S = 10.0
MINUTE, HOUR = 60, 3600
LONG_S = MINUTE
"""Work that takes longer is told at its second step how long it takes."""
LINES = 10
"""Of a training that is told line by line."""


class PlainConsole(Console):
    """Prints texts as they are: no markup, no emoji; control characters, which a file's name may hold, as escapes."""

    def __init__(self, **options):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options) -> Text:
        return super().render_str(printable(text, keep="\n\t"), **options)


class Reporter:
    """Tells the user what goes on.

    Args:
        quiet: say nothing: on other ranks, in library use.
        worded: puts a text of ours in the words of a domain.
    """

    def __init__(self, quiet: bool = False, worded: Callable[[str], str] = str):
        self.quiet, self.worded = quiet, worded
        self.console = PlainConsole(stderr=True, soft_wrap=True)
        self._bars: Progress | None = None

    def info(self, text: str) -> None:
        """One line on stderr."""
        if not self.quiet:
            self.console.print(self.worded(text))

    @contextmanager
    def task(self, title: str, unit: str = "images") -> Iterator:
        """A context that yields `progress(done, total)`."""
        title, unit = self.worded(title), self.worded(unit)
        if self.quiet:
            yield lambda done, total: None
        elif self.console.is_terminal:
            with self._shown_bars() as bars:
                task = bars.add_task(title, total=None, unit=unit)
                try:
                    yield lambda done, total: bars.update(task, completed=done, total=total)
                finally:
                    bars.remove_task(task)
        else:
            yield _plain_lines(self, title, unit)

    @contextmanager
    def _shown_bars(self) -> Iterator[Progress]:
        """Those on the terminal: it has room for one such display, to which work inside other work adds its bar."""
        if self._bars is not None:
            yield self._bars
            return
        with _bars(self.console) as self._bars:
            try:
                yield self._bars
            finally:
                self._bars = None

    @contextmanager
    def watching(self, title: str) -> Iterator[None]:
        """A context in which loops over `with_progress` are shown under this title."""
        before = _watch.set(_Watch(self, title))
        try:
            yield
        finally:
            _watch.reset(before)

    @contextmanager
    def training_lines(
        self, title: str, every: int | None = None
    ) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
        """A context that yields `on_step(done, total, values)`: progress, and `LINES` lines with mean losses.

        Args:
            every: steps between lines where the training itself tells them, so that there are none of these; or None.
        """
        with self.task(title, unit="steps") as progress:
            losses: list[float] = []

            def on_step(done: int, total: int, values: dict[str, float]) -> None:
                progress(done, total)
                losses.append(values["loss"])
                if every is None and done * LINES // total > (done - 1) * LINES // total:
                    mean = sum(losses) / len(losses)
                    self.info(f"Step {done}/{total}: loss {mean:.4f}, learning rate {values['lr']:.2e}")
                    losses.clear()

            yield on_step


@dataclass
class _Watch:
    """Who shows the loops of some work; of loops inside others the outermost alone, since it knows the end."""

    reporter: Reporter
    title: str
    busy: bool = False

    def followed(self, items: Iterable[T], unit: str, total: int) -> Iterator[T]:
        if self.busy:
            yield from items
            return
        self.busy = True
        try:
            with self.reporter.task(self.title, unit) as progress:
                for done, item in enumerate(items):
                    progress(done, total)
                    yield item
        finally:
            self.busy = False


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)


def with_progress(items: Iterable[T], unit: str = "epochs", total: int | None = None) -> Iterator[T]:
    """`items`, with progress where a reporter is `watching` and their number is known.

    Args:
        unit: what each is, in the plural.
        total: their number; by default their length, if they have one.
    """
    watch = _watch.get()  # here, since a thread that reads ahead sees none
    if total is None and isinstance(items, Sized):
        total = len(items)
    return iter(items) if watch is None or total is None else watch.followed(items, unit, total)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task) -> Text:
            return Text(_rate(1 / task.speed, task.fields["unit"]) if task.speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _plain_lines(reporter: Reporter, title: str, unit: str):
    """A line every `PLAIN_EVERY_S` seconds, and the first as soon as it is known that the work is long."""
    last = time.monotonic()
    first: tuple[int, float] | None = None  # what was done before, by a run that is resumed, says nothing of the speed
    timed = False

    def progress(done: int, total: int) -> None:
        nonlocal last, first, timed
        now = time.monotonic()
        if first is None:
            first = (done, now)
        each = (now - first[1]) / (done - first[0]) if done > first[0] else 0.0
        left = each * (total - done)
        if now - last < PLAIN_EVERY_S and (timed or left < LONG_S):
            return
        last, timed = now, timed or each > 0
        reporter.info(f"{title}: {done}/{total} {unit}{_speed(each, left, unit) if each else ''}")

    return progress


def _speed(each: float, left: float, unit: str) -> str:
    speed = _rate(each, unit)
    if left < 2 * MINUTE:
        return f", {speed}, {left:,.0f} s left"
    return f", {speed}, {left / MINUTE:,.0f} min left" if left < 2 * HOUR else f", {speed}, {left / HOUR:,.1f} h left"


def _rate(each: float, unit: str) -> str:
    """Of `each` seconds: "30 images/s", "2.5 s per step"."""
    if each > 1:
        return f"{each:,.1f} s per {unit.removesuffix('s')}"
    return f"{1 / each:,.0f} {unit}/s" if each < 0.1 else f"{1 / each:,.1f} {unit}/s"


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

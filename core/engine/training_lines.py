"""What a user sees of a training: a bar of steps, and now and then the loss in a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..runtime.progress import Reporter

LINES = 10


@contextmanager
def training_lines(reporter: Reporter, title: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A context that yields `tell(done, total, values)`: progress, and `LINES` lines with the mean loss meanwhile."""
    with reporter.task(title, unit="steps") as progress:
        losses: list[float] = []

        def tell(done: int, total: int, values: dict[str, float]) -> None:
            progress(done, total)
            losses.append(values["loss"])
            if done * LINES // total > (done - 1) * LINES // total:
                mean = sum(losses) / len(losses)
                reporter.say(f"Step {done}/{total}: loss {mean:.4f}, learning rate {values['lr']:.2e}")
                losses.clear()

        yield tell

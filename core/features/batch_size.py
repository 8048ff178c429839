"""The best number of images to encode at once, found by timing the work itself."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError

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

"""Seconds of a command by part: each once, in the innermost part."""

import pytest

from vladapt.core.runtime import progress
from vladapt.core.runtime.progress import OTHER, START, Timing, part, timed


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds) lets time pass; of a processor half of it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(progress.time, "process_time", lambda: now[0] / 2 - 49)

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_each_second_counts_for_the_innermost_part(clock):
    @part("features")
    def encoded():
        clock(4)

    spent = Timing()
    clock(1)
    with timed(spent):
        clock(2)
        with part("fit"):
            clock(8)
            encoded()
            clock(16)
        encoded()
    clock(32)
    assert spent.seconds == {START: (1.5, 1), OTHER: (1, 2), "fit": (12, 24), "features": (4, 8)}


def test_a_part_that_fails_ends(clock):
    spent = Timing()
    with timed(spent):
        with pytest.raises(ValueError, match="no"), part("fit"):
            clock(1)
            raise ValueError("no")
        clock(2)
    assert spent.seconds["fit"][1] == 1
    assert spent.seconds[OTHER][1] == 2


def test_nothing_is_measured_where_nobody_asks(monkeypatch):
    monkeypatch.setattr(progress.time, "perf_counter", lambda: pytest.fail("the clock was read"))
    with timed(None), part("fit"):
        pass

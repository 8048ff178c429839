"""Lines of progress where there is no terminal."""

from __future__ import annotations

import io

import pytest

from vladapt.core.runtime import progress
from vladapt.core.runtime.progress import Reporter


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(Reporter, "info", lambda self, text: lines.append(text))
    return lines


def test_the_time_left_after_a_resume_is_that_of_the_steps_done_since(clock, told):
    with Reporter().task("Training", unit="steps") as report:
        for done in range(901, 932):
            clock[0] += 2.0  # a step takes two seconds
            report(done, 1000)
    assert told[0] == "Training: 902/1000 steps, 2.0 s per step, 3 min left"  # long work says so at once
    assert told[1] == "Training: 907/1000 steps, 2.0 s per step, 3 min left"
    assert told[-1] == "Training: 927/1000 steps, 2.0 s per step, 2 min left"


def test_work_of_less_than_a_minute_is_told_after_ten_seconds(clock, told):
    with Reporter().task("Testing") as report:
        for done in range(1, 45):
            clock[0] += 0.5
            report(done, 44)
    assert told == [
        "Testing: 20/44 images, 2.0 images/s, 12 s left",
        "Testing: 40/44 images, 2.0 images/s, 2 s left",
    ]


def test_hours_are_told_as_hours(clock, told):
    with Reporter().task("Training", unit="steps") as report:
        for done in (1, 2):
            clock[0] += 90.0
            report(done, 1002)
    assert told[-1] == "Training: 2/1002 steps, 90.0 s per step, 25.0 h left"


def test_before_a_second_step_there_is_no_speed(clock, told):
    with Reporter().task("Training", unit="steps") as report:
        clock[0] += 60
        report(901, 1000)
    assert told == ["Training: 901/1000 steps"]


def test_a_training_that_tells_its_own_lines_has_no_others(clock, told):
    for every in (None, 5):
        with Reporter().training_lines("Training", every) as on_step:
            for done in range(1, 21):
                on_step(done, 20, {"loss": 1.0, "lr": 0.1})
        assert len(told) == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Reporter:
    monkeypatch.setenv("TERM", "xterm")
    reporter = Reporter()
    reporter.console = progress.PlainConsole(file=Terminal(), force_terminal=True, width=120)
    return reporter


def test_of_loops_inside_loops_the_outermost_is_shown_and_a_reader_that_leaves_ends_it(clock, told):
    with Reporter().watching("Fitting auto"):
        for _ in progress.with_progress(["gda", "proker", "ape"], "methods"):
            for _ in progress.with_progress(range(500)):
                clock[0] += 0.1
        assert next(progress.with_progress([1, 2])) == 1
        assert list(progress.with_progress(iter("ab"))) == ["a", "b"]  # nobody knows how many these are
    assert told == [
        "Fitting auto: 1/3 methods, 50.0 s per method, 100 s left",
        "Fitting auto: 2/3 methods, 50.0 s per method, 50 s left",
    ]
    assert list(progress.with_progress("ab")) == ["a", "b"] and len(told) == 2  # nobody watches


def test_a_bar_shows_work_inside_other_work_and_seconds_of_slow_steps(terminal, clock):
    with terminal.watching("Fitting coop"):
        for epoch in progress.with_progress(range(3)):
            with terminal.task("Encoding views") as report:
                report(epoch, 7)
                bars = terminal._bars
                shown = [(task.description, task.completed, task.total) for task in bars.tasks]
                assert shown == [("Fitting coop", epoch, 3), ("Encoding views", epoch, 7)]
            clock[0] += 4.0
    assert terminal._bars is None and not bars.tasks
    assert [progress._rate(each, "steps") for each in (2.04, 0.5, 0.004)] == [
        "2.0 s per step",
        "2.0 steps/s",
        "250 steps/s",
    ]

"""Lines of progress where there is no terminal."""

from __future__ import annotations

import pytest

from vladapt.core.errors import DataError
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


def test_errors_of_a_command_are_in_the_words_of_its_domain_and_others_as_they_were():
    of_clips = Reporter(worded=lambda text: text.replace("images", "clips"))
    with pytest.raises(DataError, match=r"^3 clips lack$"), of_clips:
        raise DataError("3 images lack")
    with pytest.raises(KeyError, match=r"images"), of_clips:
        raise KeyError("images")

"""Processes with limits: what they return, and how they end."""

import os
import signal
import sys

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from stock_checks.limited import Limits, run_limited

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these limits are those of Linux")

SMALL = Limits(memory_gib=0.1, cpu_s=1)


def raising(text):
    raise ValueError(text)


def endless():
    while True:
        pass


def test_a_value_comes_back_and_what_it_took():
    ending = run_limited(sorted, (3, 1, 2), limits=Limits())
    assert (ending.value, ending.error, ending.over) == ([1, 2, 3], "", "")
    assert 0 < ending.memory_gib < 10 and ending.cpu_s >= 0


def test_an_error_is_told_in_one_line():
    assert run_limited(raising, "one\n  two", limits=Limits()).error == "ValueError: one two"


@pytest.mark.parametrize(
    ("function", "args", "over"), [(bytearray, (1 << 30,), "0.1 GiB"), (endless, (), "1 s")], ids=["memory", "time"]
)
def test_the_limit_that_was_reached_is_told(function, args, over):
    ending = run_limited(function, *args, limits=SMALL)
    assert (ending.value, ending.error, ending.over) == (None, "", over)


def test_torchs_own_lack_of_memory_is_one():
    import torch

    assert run_limited(torch.zeros, 1 << 30, limits=SMALL).over == "0.1 GiB"


def test_the_signal_that_ended_it_is_told():
    assert run_limited(_killed, limits=Limits()).error == "ended by SIGKILL"


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)

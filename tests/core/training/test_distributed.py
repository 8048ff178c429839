"""Two real processes: rows are gathered in order, and one rank's error ends both with one line."""

from __future__ import annotations

import pytest
import torch
from forked import run_ranks

from vladapt import DataError
from vladapt.core.runtime import distributed

PRELUDE = """
import torch
from vladapt import ConfigError, DataError
from vladapt.core.runtime.distributed import (
    all_gather_json, all_gather_rows, is_main, rank, run_on_all, start_from_environment, stop, world_size
)
assert start_from_environment() and not start_from_environment() and world_size() == 2
"""


def on_two(code: str) -> list[tuple[int, str, str]]:
    """(exit code, stdout, last line of stderr) of two ranks."""
    return [
        (done.returncode, done.stdout.strip(), (done.stderr.strip().splitlines() or [""])[-1])
        for done in run_ranks(["-c", PRELUDE + code])
    ]


def test_alone_everything_is_this_rank_s():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    rows = torch.rand(3, 2)
    assert torch.equal(distributed.all_gather_rows(rows), rows)
    assert distributed.all_gather_json({"a": 1}) == [{"a": 1}]
    assert distributed.run_on_all(lambda: 7) == 7
    with pytest.raises(DataError, match="mine"):
        distributed.run_on_all(lambda: (_ for _ in ()).throw(DataError("mine")))
    assert not distributed.start_from_environment()


def test_rows_and_values_of_two_ranks_come_together_the_same_on_both():
    code = """
rows = torch.arange(6.0).reshape(3, 2) if rank() == 0 else torch.full((1, 2), 9.0)
assert all_gather_rows(rows).tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
assert all_gather_rows(rows[:0] if rank() else rows[:1]).tolist() == [[0, 1]]
assert all_gather_rows(torch.zeros(0, 5 + rank())).shape == (0, 5)
assert all_gather_rows(torch.tensor([[rank()]])).tolist() == [[0], [1]]
assert all_gather_json(["é" * rank(), is_main()]) == [["", True], ["é", False]]
assert run_on_all(lambda: run_on_all(lambda: rank())) == rank()
stop()
print("done")
"""
    assert [(code, out) for code, out, _ in on_two(code)] == [(0, "done"), (0, "done")]


def test_an_error_reaches_the_other_rank_in_whatever_exchange_it_waits():
    code = """
def failing(step):
    if rank() == 1:
        raise ConfigError("--shots 0: give 1 or more")
    step()
def unexpected():
    if rank() == 1:
        raise ValueError("broken\\n kernel")
waits = {
    "for the other's step": lambda: run_on_all(lambda: 1),
    "for rows": lambda: all_gather_rows(torch.ones(2, 2)),
    "for values": lambda: all_gather_json([1]),
    "at the end": lambda: 1,
}
for name, wait in waits.items():
    try:
        run_on_all(lambda: run_on_all(lambda: failing(wait)))
    except ConfigError as error:
        print(error, "while one waits", name)
try:
    run_on_all(lambda: run_on_all(unexpected))
except Exception as error:
    print(type(error).__name__, str(error).splitlines()[0])
print(run_on_all(lambda: "and goes on"))
stop()
"""
    waits = ("for the other's step", "for rows", "for values", "at the end")
    ends = [f"--shots 0: give 1 or more while one waits {name}" for name in waits]
    (_, first, errors), (_, second, _) = on_two(code)
    assert first.splitlines() == [*ends, "VladaptError rank 1 failed: ValueError: broken kernel", "and goes on"], errors
    assert second.splitlines() == [*ends, "ValueError broken", "and goes on"]

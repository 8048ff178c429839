"""What ranks exchange, and that each exchange has its adjoint: gradients are those of the sum of all ranks' values."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for rank_steps, which other processes import too

from rank_steps import rows_of, step_in_a_process, step_of_a_rank, value_of

from vladapt.core.runtime.ranks import ONE, acting_as, present_ranks
from vladapt.core.testing.processes import workers
from vladapt.core.testing.thread_ranks import as_ranks


def by_hand(size: int) -> list[dict[str, torch.Tensor]]:
    """The same of all ranks at once, differentiated as one sum."""
    rows = [rows_of(rank) for rank in range(size)]
    everything, mean = torch.cat(rows), torch.cat(rows).mean(dim=0)

    class At:
        def __init__(self, rank):
            self.rank = rank

    values = [value_of(At(rank), rows[rank], everything, mean, everything) for rank in range(size)]
    gradients = torch.autograd.grad(sum(values), rows)
    plain = [each.detach() for each in rows]
    return [
        {
            "value": values[rank].detach(),
            "gradient": gradients[rank],
            "flags": torch.cat(plain) > 0,
            "sum": sum(plain).T,
            "highest": torch.stack(plain).amax(dim=0),
            "scattered": plain[rank] * sum(range(1, size + 1)),
            "passed": torch.cat([plain[(rank + 1) % size], -plain[(rank + 1) % size]]),
        }
        for rank in range(size)
    ]


def assert_as_by_hand(steps: list[dict[str, torch.Tensor]]) -> None:
    for step, wanted in zip(steps, by_hand(len(steps)), strict=True):
        assert step.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(step[name], value, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("size", [2, 3])
def test_threads_exchange_and_differentiate(size):
    assert_as_by_hand(as_ranks(size, lambda rank: step_of_a_rank(present_ranks())))


@pytest.mark.parametrize("size", [2, 4])
def test_processes_exchange_and_differentiate(size, forked_workers):
    assert_as_by_hand(workers(size).run(step_in_a_process, {}))


def test_alone_nothing_is_exchanged_and_no_graph_is_made():
    rows = rows_of(0)
    assert present_ranks() is ONE
    assert ONE.columns(rows) is rows and ONE.whole(rows) is rows and ONE.average(rows) is rows
    assert_as_by_hand([step_of_a_rank(ONE)])
    with acting_as(ONE):
        assert present_ranks() is ONE


def test_an_error_of_one_thread_ends_all():
    def step(rank):
        if rank == 1:
            raise ValueError("rank 1 cannot")
        return present_ranks().sum(torch.ones(1))

    with pytest.raises(ValueError, match="rank 1 cannot"):
        as_ranks(2, step)

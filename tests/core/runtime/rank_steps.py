"""What the tests of `Ranks` have each rank do; a module, so that other processes find it."""

import torch

from vladapt.core.runtime.ranks import present_ranks

WIDTH = 3


def rows_of(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(2, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)


def value_of(ranks, rows: torch.Tensor, seen: torch.Tensor, mean: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Something that each rank makes otherwise of what it gets of the others, but of `whole`."""
    weight = ranks.rank + 1.0
    return weight * (rows @ seen.T).sin().sum() + (mean * rows).square().sum() * weight + whole.cos().sum()


def step_of_a_rank(ranks) -> dict[str, torch.Tensor]:
    rows = rows_of(ranks.rank)
    mean = ranks.average(rows.mean(dim=0))
    value = value_of(ranks, rows, ranks.columns(rows), mean, ranks.whole(rows))
    value.backward()
    flags = ranks.columns(rows.detach() > 0)
    return {"value": value.detach(), "gradient": rows.grad, "flags": flags, **exchanged(ranks, rows.detach())}


def exchanged(ranks, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The exchanges without a gradient."""
    return {
        "sum": ranks.sum(rows.T),
        "highest": ranks.highest(rows),
        "scattered": ranks.scatter_sum(ranks.gather(rows) * (ranks.rank + 1)),
        "passed": torch.cat(ranks.pass_on(rows, -rows)),
    }


def step_in_a_process(content, rank, size):
    return step_of_a_rank(present_ranks())

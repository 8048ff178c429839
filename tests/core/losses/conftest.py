"""Example outputs for any loss, made from what it says it needs, and two real processes that compute losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from forked import PIPE, Group

from vladapt.core.contracts.outputs import OUTPUTS

SIZES = {"B": 8, "D": 24, "W": 20, "T": 16, "P": 6, "L": 7, "N": 3, "V": 2, "E": 5, "C": 5}
DIMS = {
    "embed_dim": SIZES["D"],
    "image_width": SIZES["W"],
    "text_width": SIZES["T"],
    "context_length": SIZES["L"],
    "vocab_size": 50,
    "num_classes": SIZES["C"],
    "num_samples": 32,
}


def example_outputs(needs, seed: int = 0, **sizes: int) -> dict:
    """Random outputs of the shapes and kinds that the table of outputs gives."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {**SIZES, **sizes}
    return {name: _example(OUTPUTS[name], sizes, generator) for name in sorted(needs)}


def _example(output, sizes, generator):
    shape = [sizes[axis] for axis in output.shape]
    if output.kind == "unit":
        return F.normalize(torch.randn(shape, generator=generator), dim=-1)
    if output.kind == "raw":
        return torch.randn(shape, generator=generator)
    if output.kind == "positive":
        return torch.tensor(11.3)
    if output.kind == "number":
        return torch.tensor(-4.2)
    if output.kind == "mask":
        lengths = torch.randint(2, shape[1] + 1, (shape[0], 1), generator=generator)
        return torch.arange(shape[1])[None] < lengths
    if output.kind == "class":
        return torch.randint(0, 3, shape, generator=generator)
    if output.kind == "finding":
        return torch.randint(-1, 2, shape, generator=generator).float()
    if output.kind == "row":
        return torch.randperm(DIMS["num_samples"], generator=generator)[: shape[0]]
    if output.kind == "token":
        hidden = torch.rand(shape, generator=generator) < 0.4
        return torch.where(hidden, torch.randint(0, DIMS["vocab_size"], shape, generator=generator), -100)
    raise AssertionError(f"no example of kind {output.kind}")


@pytest.fixture(scope="session")
def dims() -> dict[str, int]:
    """Widths that fit the example outputs."""
    return dict(DIMS)


@pytest.fixture(scope="session")
def example_out():
    """`example_out(needs, seed=0, B=8, ...)`: random outputs by name."""
    return example_outputs


class TwoRanks:
    """Two processes in a gloo group, started once, that compute a loss on their halves of a batch."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.group = Group([Path(__file__).with_name("rank_worker.py")], stdin=PIPE)
        self.processes = self.group.processes

    def run(self, job: dict) -> list[dict]:
        """What `rank_worker.compute(job, rank)` returns on each rank."""
        self.count += 1
        path = self.folder / f"job{self.count}.pt"
        torch.save(job, path)
        for process in self.processes:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in self.processes]
        assert all(answer.endswith(".pt") for answer in answers), answers
        return [torch.load(answer) for answer in answers]

    def close(self) -> None:
        for process in self.processes:
            process.stdin.close()
            process.wait()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory):
    """`two_ranks.run(job)`; see `rank_worker.py` for what a job is."""
    ranks = TwoRanks(tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()

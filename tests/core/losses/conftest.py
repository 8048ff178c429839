"""Example outputs for any loss, made from what it says it needs, and two processes that compute losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for rank_jobs, which other processes import too

from vladapt.core.registry import loss_class
from vladapt.core.testing.loss_steps import DIMS, example_outputs, steps_elsewhere
from vladapt.core.testing.processes import class_place, workers


@pytest.fixture(scope="session")
def dims() -> dict[str, int]:
    """Widths that fit the example outputs."""
    return dict(DIMS)


@pytest.fixture(scope="session")
def example_out():
    """`example_out(needs, seed=0, brought=None, B=8, ...)`: random outputs by name."""

    def make(needs, seed: int = 0, brought=None, **sizes: int) -> dict:
        return example_outputs(needs, seed, brought, **sizes)

    return make


@pytest.fixture
def on_two_ranks(forked_workers):
    """`on_two_ranks(name, job)`: what `steps_of` gives of a loss on each of two ranks of a gloo group."""

    def run(name: str, job: dict) -> list[dict]:
        return workers(2).run(steps_elsewhere, {**job, "place": class_place(loss_class(name))})

    return run

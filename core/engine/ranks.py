"""Running a command on all ranks that torchrun started: together, and each with its own share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..runtime.distributed import run_on_all, start_from_environment, stop

T = TypeVar("T")


def together(step: Callable[[], T]) -> T:
    """Run `step` on this rank among the others; alone where torchrun started none.

    Raises:
        The step's own error, or that of whichever rank failed.
    """
    joined = start_from_environment()
    try:
        return run_on_all(step)
    finally:
        if joined:
            stop()

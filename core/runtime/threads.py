"""How many threads a computation is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FEW = 2**28
"""Multiplications of a matrix product up to which threads wait for one another longer than they compute."""


@contextmanager
def threads_for(multiplications: float) -> Iterator[None]:
    """One thread for PyTorch and BLAS where matrix products are small; else as many as before.

    On a machine that has other work to do, threads that wait for one another make a fit of a second take a minute.

    Args:
        multiplications: of the largest product; infinity for threads in any case.
    """
    if multiplications > FEW:
        yield
        return
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)

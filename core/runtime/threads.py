"""How many threads a computation is worth, and in which blocks of rows it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

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
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _libraries(modules: int):
    """Those that have threads, looked for anew where more modules are imported: that takes longer than a small fit."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def in_blocks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Rows (N, ...) some at a time, so that what is made of them stays small; all at once while a graph is traced: it
    would keep the first block alone."""
    return (rows,) if torch.compiler.is_exporting() else rows.split(size)

"""Images or texts through a tower on the CPU, a few at a time on each core.

What a processor adds up depends on how many threads share a product, so that features differ in their last digits
between machines. Here each product is one thread's, and features are the same wherever there is any number of cores;
for towers of the usual sizes it is also faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor

ROWS = 4
"""Images or texts that one thread takes at once."""


class OnCores:
    """An encoder of rows, called with many.

    Args:
        encode: a tensor (n, ...) or n texts -> (n, D).
        threads: how many work at a time.
    """

    def __init__(self, encode: Callable[[Any], Tensor], threads: int):
        self.encode = encode
        self._threads = ThreadPoolExecutor(threads, "encode", initializer=partial(torch.set_num_threads, 1))

    def __call__(self, rows: Tensor | Sequence[str]) -> Tensor:
        some = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # MKL has one number for all threads
        try:
            return torch.cat(list(self._threads.map(self.encode, some)))
        finally:
            torch.set_num_threads(before)

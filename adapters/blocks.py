"""Rows some at a time, for methods that make something large of each row."""

from __future__ import annotations

import torch
from torch import Tensor


def in_blocks(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Rows (N, ...) some at a time, so that what is made of them stays small; all at once while a graph is traced: it
    would keep the first block alone."""
    return (rows,) if torch.compiler.is_exporting() else rows.split(size)

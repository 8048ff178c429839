"""Random numbers that belong to two samples and a step, whatever batch, part or process the samples are in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairDraws(nn.Module):
    """Random numbers that depend on the training's seed, the step and an ordered pair of samples, by the finaliser of
    SplitMix64 (Steele et al., 2014, doi 10.1145/2660193.2660195)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("salt", torch.randint(2**62, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def of_pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """(B,) and (M,) rows of the training set -> (B, M) above 0 and below 1."""
        of_rows = _mixed(_mixed(self.salt + self.step) + rows.long())
        keys = _mixed(of_rows[:, None] + _mixed(others.long()))
        return ((keys & 0xFFFFFF).float() + 0.5) / (1 << 24)

    def move(self) -> None:
        self.step += 1


def _mixed(x: Tensor) -> Tensor:
    """Of int64 that wrap around."""
    x = x * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))

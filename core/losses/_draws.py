"""Random numbers that belong to samples and a step, whatever batch, part or process the samples are in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Draws(nn.Module):
    """Random numbers that depend on the training's seed, the step, the sample and a place of it or another sample."""

    def __init__(self):
        super().__init__()
        self.register_buffer("salt", torch.randint(2**62, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def keys(self, rows: Tensor, shape: tuple[int, int]) -> Tensor:
        """(B,) rows of the training set -> (B, Q, A) int64 of places in (Q, A)."""
        places = torch.arange(shape[0] * shape[1], device=rows.device).view(shape)
        return self.mixed(self._of_rows(rows)[:, None, None] + places)

    def of_pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """(B,) and (M,) rows of the training set -> (B, M) above 0 and below 1."""
        keys = self.mixed(self._of_rows(rows)[:, None] + self.mixed(others.long()))
        return ((keys & 0xFFFFFF).float() + 0.5) / (1 << 24)

    @staticmethod
    def of_places(draws: Tensor, row: int, count: int) -> Tensor:
        """A batch's own draws (B, 4, K) -> (B, count) of one row: one number per place, used again beyond K."""
        return draws[:, row, torch.arange(count, device=draws.device) % draws.shape[2]]

    @staticmethod
    def visible_tokens(x: Tensor, prefix: int, draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """What a tower sees of an image where the rest is left out: the share of its patches with the lowest draws.

        Args:
            x: (B, prefix + P, W), of which the first are no patches and stay.
            draws: (B, 4, K) in 0..1.
            share: of the patches; one at least.

        Returns:
            (B, prefix + V, W), and (B, V) int64, ascending: the places of these patches.
        """
        patches = x.shape[1] - prefix
        count = max(1, round(share * patches))
        places = Draws.of_places(draws, 0, patches).argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        first = torch.arange(prefix, device=x.device).expand(len(x), -1)
        index = torch.cat([first, places + prefix], dim=1)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])), places

    def move(self) -> None:
        """To the next step."""
        self.step += 1

    def _of_rows(self, rows: Tensor) -> Tensor:
        return self.mixed(self.mixed(self.salt + self.step) + rows.long())

    @staticmethod
    def mixed(x: Tensor) -> Tensor:
        """The finaliser of SplitMix64 (Steele et al., 2014, doi 10.1145/2660193.2660195), on int64 that wrap around."""
        x = x * -7046029254386353131
        for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
            x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return x ^ ((x >> 31) & ((1 << 33) - 1))

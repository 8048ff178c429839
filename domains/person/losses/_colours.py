"""A grey picture coloured by what its caption says: PLIP's text-guided colourisation, as its abstract names it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601."""


class GuidedReader(nn.Module):
    """Tokens of one tower that look at those of the other, and an answer for each.

    Args:
        width: of the tokens that ask.
        other: of the tokens that are looked at.
        inside: width in between, a multiple of `heads`.
        heads: of the attention.
        out: numbers of an answer.
    """

    def __init__(self, width: int, other: int, inside: int, heads: int, out: int):
        super().__init__()
        self.asks, self.told = nn.Linear(width, inside), nn.Linear(other, inside)
        self.norm_asks, self.norm_told, self.norm = nn.LayerNorm(inside), nn.LayerNorm(inside), nn.LayerNorm(inside)
        self.attention = nn.MultiheadAttention(inside, heads, batch_first=True)
        self.answer = nn.Sequential(nn.Linear(inside, 4 * inside), nn.GELU(), nn.Linear(4 * inside, out))

    def forward(self, tokens: Tensor, others: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, width), (B, S, other) -> (B, T, out).

        Args:
            mask: (B, S) bool, which of the others may be looked at.
        """
        asks, told = self.asks(tokens), self.norm_told(self.told(others))
        hidden = None if mask is None else ~mask
        seen = self.attention(self.norm_asks(asks), told, told, key_padding_mask=hidden, need_weights=False)[0]
        return self.answer(self.norm(asks + seen))


def grey_and_colours(backbone: Backbone, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised pixels (B, 3, H, W) -> those of the grey picture, and (B, 3, H, W) by how much each colour is off its
    grey, in 0..1."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (backbone.image_mean, backbone.image_std))
    plain = pixels * std + mean
    grey = (plain * plain.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True).expand_as(plain)
    return (grey - mean) / std, plain - grey


def patch_cells(colours: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """(B, 3, H, W) -> (B, h * w, 3 * cells * cells): mean colours of the cells of each patch."""
    rows, columns = grid
    means = F.adaptive_avg_pool2d(colours, (rows * cells, columns * cells))
    of_patches = means.unflatten(-1, (columns, cells)).unflatten(-3, (rows, cells))  # (B, 3, h, c, w, c)
    return of_patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

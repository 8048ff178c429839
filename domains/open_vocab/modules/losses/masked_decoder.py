"""Small decoders that guess what was hidden, of an image or of a caption: the reconstruction losses of SegCLIP.

SegCLIP (Luo et al., 2022, arXiv 2211.14813), section 3.3, on Masked Autoencoders Are Scalable Vision Learners (He et
al., 2021, arXiv 2111.06377). As released, targets are pixels as they are, not normalised for each patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts import require

MASK_STD = 0.02
EPS = 1e-6


class KeptPlaces(NamedTuple):
    """Which of L places of a sequence stay.

    Args:
        places: (B, K), in ascending order.
        hidden: (B, L) bool, those that do not.
    """

    places: Tensor
    hidden: Tensor

    def of(self, x: Tensor) -> Tensor:
        """(B, L, ...) -> (B, K, ...)."""
        index = self.places.view(*self.places.shape, *(1,) * (x.ndim - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))

    def spread(self, x: Tensor, filler: Tensor) -> Tensor:
        """(B, K, W) -> (B, L, W), `filler` (W,) where places are hidden."""
        whole = filler.to(x.dtype).expand(*self.hidden.shape, -1)
        return whole.scatter(1, self.places[..., None].expand(-1, -1, x.shape[-1]), x)


def keep_some(count: int, shape: tuple[int, int], device: torch.device, forced: Tensor | None = None) -> KeptPlaces:
    """A random choice of `count` places of (B, L), those that are `forced` (B, L) bool before all others."""
    draws = torch.rand(shape, device=device)
    if forced is not None:
        draws = draws.masked_fill(forced, -1.0)
    places = draws.argsort(dim=1)[:, :count].sort(dim=1).values
    hidden = torch.ones(shape, dtype=torch.bool, device=device).scatter(1, places, False)
    return KeptPlaces(places, hidden)


class MaskedDecoder(nn.Module):
    """Transformer blocks over what is seen and, in the place of what is not, one learned token.

    Args:
        in_width: of what comes in.
        out_width: of what is guessed at each place: the values of a patch, or scores of words.
        width: of the decoder; a multiple of 4 and of `heads`. None is half of `in_width`.
        depth: blocks.
        heads: of their attention.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, in_width: int, out_width: int, width: int | None = None, depth: int = 3, heads: int = 8):
        super().__init__()
        width = in_width // 2 if width is None else width
        require(depth >= 1, "decoder depth", depth, "give 1 or more")
        usable = width % 4 == 0 and heads >= 1 and width % heads == 0
        require(usable, "decoder width", width, f"give a multiple of 4 and of its {heads} heads")
        self.enter = nn.Linear(in_width, width)
        self.mask_token = nn.Parameter(MASK_STD * torch.randn(width))
        self.blocks = nn.ModuleList(pre_norm_layer(width, heads, EPS) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.leave = nn.Linear(width, out_width)
        for module in (self.enter, self.leave):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)

    @property
    def width(self) -> int:
        """Of the positions that `forward` takes."""
        return self.norm.normalized_shape[0]

    def forward(
        self,
        seen: Tensor,
        kept: KeptPlaces,
        positions: Tensor,
        first: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> Tensor:
        """A guess for each place.

        Args:
            seen: (B, K, in_width), the places that were kept.
            kept: which they are.
            positions: (L, width).
            first: (B, in_width), a token for the whole that comes before all places, or None.
            ignored: (B, L) bool, places that nobody looks at, or None.

        Returns:
            (B, L, out_width).
        """
        x = kept.spread(self.enter(seen), self.mask_token) + positions.to(seen.dtype)
        if first is not None:
            x = torch.cat([self.enter(first)[:, None], x], dim=1)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=ignored)
        x = x if first is None else x[:, 1:]
        return self.leave(self.norm(x))


def pre_norm_layer(width: int, heads: int, eps: float = 1e-5, activation="gelu") -> nn.TransformerEncoderLayer:
    """Attention and an MLP four times as wide, norms before them, no dropout."""
    return nn.TransformerEncoderLayer(
        width,
        heads,
        4 * width,
        dropout=0.0,
        activation=activation,
        layer_norm_eps=eps,
        batch_first=True,
        norm_first=True,
    )


def pixel_loss(guess: Tensor, pixels: Tensor, hidden: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean squared error of the hidden patches.

    Args:
        guess: (B, P, p * p * 3).
        pixels: (B, 3, h * p, w * p).
        hidden: (B, P) bool.
        grid: (h, w).
    """
    target = square_patches(pixels, grid)
    error = (guess.float() - target.float()).square().mean(dim=-1)  # (B, P)
    return (error * hidden).sum() / hidden.sum().clamp(min=1)


def word_loss(guess: Tensor, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Cross-entropy of the hidden words, 0 where none is hidden: (B, L, V) scores, (B, L) words, (B, L) bool."""
    if not hidden.any():
        return guess.float().sum() * 0
    return F.cross_entropy(guess[hidden].float(), tokens[hidden])


def square_patches(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, 3, h * p, w * p) -> (B, h * w, p * p * 3)."""
    cut = pixels.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))  # (B, 3, h, p, w, p)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2)


def grid_positions(width: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, width) sines and cosines, one half for columns, the other for rows."""
    rows, columns = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    return torch.cat([line_positions(width // 2, place.flatten()) for place in (columns, rows)], dim=1)


def line_positions(width: int, places: Tensor) -> Tensor:
    """(L,) places -> (L, width): sines of falling frequency, then cosines."""
    frequency = 10000.0 ** -(torch.arange(width // 2, device=places.device) / (width / 2))
    angle = places[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)

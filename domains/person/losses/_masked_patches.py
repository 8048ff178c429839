"""Masked autoencoding: hidden patches of an image, rebuilt from those that the image tower sees.

Masked Autoencoders Are Scalable Vision Learners (MAE), 2021, arXiv 2111.06377.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone, height_and_width
from ....core.losses import Draws

EPS = 1e-6
HEAD_WIDTH = 32
"""Of the decoder's attention: 16 heads at MAE's width of 512."""


class MaskedPatchDecoder(nn.Module):
    """What the image tower makes of some patches -> the pixels of all of them.

    Args:
        backbone: whose image tower sees them; with blocks.
        width: of the decoder, a multiple of 32.
        depth: its blocks.
        share: of the patches that are hidden.
    """

    def __init__(self, backbone: Backbone, width: int, depth: int, share: float):
        super().__init__()
        backbone.need("image_blocks")
        self._held, self.share = [backbone], share
        pixels = torch.zeros(1, len(backbone.image_mean), *height_and_width(backbone.image_size))
        with torch.no_grad():
            inside = backbone.norm_tokens(backbone.embed_image(pixels)).shape[-1]
        self.grid = backbone.image_grid(pixels)
        of_patch = image_patches(pixels, self.grid).shape[-1]
        self.embed = nn.Linear(inside, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        self.register_buffer("positions", sine_positions(*self.grid, width), persistent=False)
        heads, inner = width // HEAD_WIDTH, 4 * width
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.pixels = nn.LayerNorm(width), nn.Linear(width, of_patch)

    def forward(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """(B, 1) mean squared error of each image's hidden patches, whose own mean and deviation are taken out.

        Args:
            pixels: (B, C, H, W), normalised.
            draws: (B, 4, K) in 0..1; which patches are hidden is a function of the first row.
        """
        seen, places = self._seen(pixels, draws)
        rebuilt = self._rebuilt(seen, places)
        targets = standardised(image_patches(pixels, self.grid).float())
        errors = (rebuilt.float() - targets).square().mean(dim=2)  # (B, P)
        hidden = torch.ones_like(errors).scatter(1, places, 0.0)
        return (errors * hidden).sum(dim=1, keepdim=True) / hidden.sum(dim=1, keepdim=True)

    def _seen(self, pixels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """(B, V, W) what the tower, its last norm too, makes of the patches that it sees; (B, V) which these are."""
        backbone = self._held[0]
        x = backbone.embed_image(pixels)
        prefix, count = backbone.image_prefix, self.grid[0] * self.grid[1]
        kept = min(count - 1, max(1, round((1 - self.share) * count)))
        places = Draws.of_places(draws, 0, count).argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values
        patches = x[:, prefix:].gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        x = backbone.run_blocks("image", torch.cat([x[:, :prefix], patches], dim=1))
        return backbone.norm_tokens(x[:, prefix:]), places

    def _rebuilt(self, seen: Tensor, places: Tensor) -> Tensor:
        """(B, P, pixels of a patch)."""
        embedded = self.embed(seen)
        x = self.hidden.to(embedded).expand(len(seen), self.positions.shape[0], -1)
        x = x.scatter(1, places[..., None].expand(-1, -1, embedded.shape[-1]), embedded)
        x = x + self.positions.to(x)
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x))


def image_patches(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, h * w, C * H / h * W / w); what is left over at the edges is left out."""
    height, width = (side // cells for side, cells in zip(pixels.shape[-2:], grid))
    whole = pixels[..., : grid[0] * height, : grid[1] * width]
    cells = whole.unflatten(-1, (grid[1], width)).unflatten(-3, (grid[0], height))  # (B, C, h, H', w, W')
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def standardised(patches: Tensor) -> Tensor:
    """(B, P, n): each patch with mean 0 and deviation 1."""
    deviation, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (deviation + EPS).sqrt()


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width): sines and cosines of the column and of the row, half of the width each."""
    quarter = width // 4
    rates = torch.exp(-math.log(10_000) * torch.arange(quarter) / quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)

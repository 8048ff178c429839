"""Patches that were left out, drawn again: the masked autoencoding of `arl`.

Masked Autoencoders Are Scalable Vision Learners (MAE), 2021, arXiv 2111.06377.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-6


class PatchDecoder(nn.Module):
    """What is known of the patches that are seen -> the pixels of all.

    Args:
        width: of what is known of a patch.
        patches: of an image, P.
        values: of a patch.
        decoder_width, layers, heads: of the decoder.
    """

    def __init__(self, width: int, patches: int, values: int, decoder_width: int, layers: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(width, decoder_width)
        self.hidden = nn.Parameter(0.02 * torch.randn(decoder_width))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + patches, decoder_width))
        of_one = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(decoder_width, heads, 4 * decoder_width, **of_one) for _ in range(layers)
        )
        self.norm, self.pixels = nn.LayerNorm(decoder_width), nn.Linear(decoder_width, values)

    def forward(self, seen: Tensor, visible: Tensor) -> Tensor:
        """(B, P, values).

        Args:
            seen: (B, 1 + V, W), what stands for the image, then each patch that is seen.
            visible: (B, P) bool, V of each image.
        """
        embedded = self.embed(seen)
        order = (~visible).to(torch.uint8).argsort(dim=1, stable=True)  # (B, P), those that are seen come first
        missing = self.hidden.expand(len(seen), visible.shape[1] + 1 - seen.shape[1], -1)
        patches = torch.cat([embedded[:, 1:], missing], dim=1)
        patches = torch.zeros_like(patches).scatter(1, order[..., None].expand_as(patches), patches)
        x = torch.cat([embedded[:, :1], patches], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.pixels(self.norm(x[:, 1:]))


def patches_of(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, h * w, H/h * W/w * C), of each patch row by row the channels of each pixel."""
    height, width = (side // cells for side, cells in zip(pixels.shape[-2:], grid))
    whole = pixels[..., : grid[0] * height, : grid[1] * width]
    cells = whole.unflatten(-1, (grid[1], width)).unflatten(-3, (grid[0], height))  # (B, C, h, H', w, W')
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def patch_errors(predicted: Tensor, patches: Tensor) -> Tensor:
    """(B, P, n) each -> (B, P) mean squared error of each patch, whose own mean and deviation are taken out."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (predicted - (patches - mean) / (variance + EPS).sqrt()).square().mean(dim=-1)

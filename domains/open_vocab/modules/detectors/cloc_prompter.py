"""Promptable embeddings: an image's tokens and a place, or a text, become the embedding of a region (CLOC)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .....core.contracts import require

FREQUENCIES = 8
MLP_RATIO = 4


class Prompter(nn.Module):
    """A light transformer whose query is a prompt and whose keys are the tokens of one image.

    Contrastive Localized Language-Image Pre-Training (CLOC), 2024, arXiv 2410.02746. No code is public; the paper has
    a lightweight prompter between the image tower and the region embedding, prompted by boxes or by texts. Ours are:
    one layer of one head by default, Fourier features of a box's corners, positions of the tokens of the same kind, a
    linear map of a text's embedding, a learned vector for each kind of prompt, and reading out at the prompt.

    Args:
        width: D, of image tokens and of texts.
        hidden: width of the transformer; None is D.
        layers: of the transformer.
        heads: of its attention; they divide the hidden width.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(self, width: int, hidden: int | None = None, layers: int = 1, heads: int = 1):
        super().__init__()
        hidden = width if hidden is None else hidden
        require(layers >= 1, "layers", layers, "give 1 or more")
        require(heads >= 1 and hidden % heads == 0, "heads", heads, f"give a divisor of the hidden width, {hidden}")
        self.tokens = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.place = nn.Linear(2 * 2 * FREQUENCIES, hidden)  # of a cell of the image
        self.box = nn.Sequential(nn.Linear(4 * 2 * FREQUENCIES, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.text = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
        self.kinds = nn.ParameterDict({kind: nn.Parameter(torch.randn(hidden) * 0.02) for kind in ("box", "text")})
        self.layers = nn.ModuleList(_Layer(hidden, heads) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width))

    def keys(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(P, D) tokens of one image and its grid (h, w), h * w = P -> (P, hidden)."""
        return self.tokens(tokens) + self.place(fourier(cell_centres(grid, tokens.device))).to(tokens)

    def from_boxes(self, keys: Tensor, boxes: Tensor) -> Tensor:
        """(N, 4) boxes x1, y1, x2, y2 in shares of the image -> (N, D), not normalised."""
        return self._prompted(keys, self.box(fourier(boxes)) + self.kinds["box"])

    def from_texts(self, keys: Tensor, texts: Tensor) -> Tensor:
        """(N, D) unit embeddings of texts -> (N, D): of the regions that the texts are about."""
        return self._prompted(keys, self.text(texts) + self.kinds["text"])

    def _prompted(self, keys: Tensor, prompts: Tensor) -> Tensor:
        for layer in self.layers:
            prompts = layer(prompts, keys)
        return self.out(prompts)


class BoxHead(nn.Module):
    """The place of a region, of its embedding: (N, D) -> (N, 4) as cx, cy, w, h in shares of the image."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4)
        )

    def forward(self, regions: Tensor) -> Tensor:
        return self.layers(regions).float().sigmoid()


class _Layer(nn.Module):
    """Prompts look at the image, each for itself."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.mixed = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))

    def forward(self, prompts: Tensor, keys: Tensor) -> Tensor:
        """(N, W) and (P, W) -> (N, W)."""
        query, key, value = self.query(self.ln_1(prompts)), self.key(keys), self.value(keys)
        split = [rows.unflatten(1, (self.heads, -1)).transpose(0, 1) for rows in (query, key, value)]  # (H, ., W / H)
        seen = F.scaled_dot_product_attention(*split).transpose(0, 1).flatten(1)  # (N, W)
        prompts = prompts + self.mixed(seen)
        return prompts + self.mlp(self.ln_2(prompts))


def fourier(places: Tensor) -> Tensor:
    """(N, K) in 0..1 -> (N, K * 2 * FREQUENCIES): sines and cosines of half a wave, one, two, four, ..."""
    waves = math.pi * 2.0 ** torch.arange(FREQUENCIES, device=places.device, dtype=places.dtype)
    angles = (places[..., None] * waves).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def cell_centres(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(h * w, 2): x and y of the cells, in shares of the image."""
    height, width = grid
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([(x.flatten() + 0.5) / width, (y.flatten() + 0.5) / height], dim=1)

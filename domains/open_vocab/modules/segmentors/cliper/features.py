"""CLIPer's features: tokens of every layer through the last attention, with weights fused from those of all before.

"CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation" (2024,
arXiv 2411.13836).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ......core.contracts import Backbone, Block
from ......core.errors import CapabilityError, DataError
from ..attention_heads import join_heads, self_similarity, split_heads
from ..training_free import resize_to

FUSED = "fused"


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "q-q": lambda query, key, value: self_similarity(query),
    "k-k": lambda query, key, value: self_similarity(key),
    "v-v": lambda query, key, value: self_similarity(value),
    "vanilla": lambda query, key, value: _weights(query, key),
    "identity": lambda query, key, value: torch.eye(query.shape[2], dtype=query.dtype, device=query.device).expand(
        *query.shape[:2], -1, -1
    ),
}
"""Weights (B, H, T, T) of queries, keys and values (B, H, T, d): what the fused ones are compared with in the paper."""


def layer_features(
    backbone: Backbone, pixels: Tensor, attention: str = FUSED, released: bool = False
) -> tuple[Tensor, Tensor]:
    """Every layer's tokens in the space of text, and the weights of the attention they went through last.

    What goes into the last attention is, of each earlier layer, its normalised input, and of the last layer its input;
    it comes out without residual and MLP.

    Args:
        pixels: (B, 3, H, W).
        attention: "fused", or one of `ATTENTIONS`.
        released: fused weights are `balanced_attention` once more for each layer in turn, as the code's arithmetic in
            place makes them; else once for all.

    Returns:
        (L, B, T, D), and (B, H, T, T).

    Raises:
        CapabilityError: the image tower has no transformer blocks, or one.
    """
    if len(backbone.blocks("image")) < 2:
        raise CapabilityError(
            f"backbone '{backbone.spec}' has only one transformer block, but attention of the blocks before the last "
            "is needed; give a deeper vision transformer"
        )
    inputs, fused = _run_early(backbone, pixels, attention == FUSED)
    last = backbone.blocks("image")[-1]
    outputs = []
    for index, x in enumerate(inputs):
        query, key, value = split_heads(last, last.ln_1(x))
        if attention != FUSED:
            weights = ATTENTIONS[attention](query, key, value)
        elif index == 0 or released:
            fused = balanced_attention(fused)
            weights = purified(fused)
        outputs.append(_project_all(backbone, join_heads(last, weights.to(value) @ value)))
    return torch.stack(outputs), weights


def balanced_attention(weights: Tensor) -> Tensor:
    """Attention weights (B, H, T, T), each column divided by its sum, then each row."""
    weights = weights / weights.sum(dim=-2, keepdim=True)
    return weights / weights.sum(dim=-1, keepdim=True)


def purified(weights: Tensor) -> Tensor:
    """Balanced weights (B, H, T, T) that say what belongs together: alike both ways, above average, rows sum to 1."""
    weights = (weights + weights.transpose(-2, -1)) / 2
    weights = (weights - weights.mean(dim=-2, keepdim=True)).clamp(min=0)
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _run_early(backbone: Backbone, pixels: Tensor, fuse: bool) -> tuple[list[Tensor], Tensor]:
    """What each layer gives to the last attention (B, T, W), and the sum of the weights of all but the last layer."""
    inputs: list[Tensor] = []
    total = torch.zeros(())

    def watched(_, block: Block, normal: Tensor) -> Tensor:
        nonlocal total
        query, key, value = split_heads(block, normal)
        weights = _weights(query, key)
        total = weights.float() + total.to(weights.device) if fuse else total
        inputs.append(normal)
        return join_heads(block, weights @ value)

    x = backbone.embed_image(pixels)
    x = backbone.run_blocks("image", x, 0, len(backbone.blocks("image")) - 1, attention=watched)
    return [*inputs, x], total


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)


def _project_all(backbone: Backbone, x: Tensor) -> Tensor:
    """(B, T, W) -> (B, T, D): what stands before the patches is projected as they are."""
    before = x.new_zeros(len(x), backbone.image_prefix, x.shape[-1])
    return backbone.project_patches(torch.cat([before, x], dim=1))


# See `cliper_features.py` for the paper.

SMALL = 1e-5
KEY = "maps"
NEEDED = (
    "refine='diffusion' takes ready self-attention maps, one file per image, by maps=FOLDER: those of Stable Diffusion "
    "2.1 (pip install diffusers, weights stabilityai/stable-diffusion-2-1-base), of its layers of 64 x 64 cells at "
    "time step 45 of 50; or take refine='proxy', which needs no diffusion model"
)


def spread_by_maps(coarse: Tensor, maps: Tensor, threshold: float) -> Tensor:
    """Coarse maps times the product of all attention maps, made sparse first.

    Args:
        coarse: (C, h, w).
        maps: (K, N, N), rows the places that look, N the cells of a square.
        threshold: weights below this part of the most that a place is looked at count nothing.

    Returns:
        (C, sqrt(N), sqrt(N)).
    """
    side = math.isqrt(maps.shape[-1])
    spread = resize_to(coarse[None].float(), (side, side))[0].flatten(1).T  # (N, C)
    for one in maps.flip(0):  # the product of K matrices of N x N is never made
        one = one.float()
        one = one / (one.amax(dim=0, keepdim=True) + SMALL)
        one = torch.where(one < threshold, torch.zeros_like(one), one)
        spread = (one / (one.sum(dim=1, keepdim=True) + SMALL)) @ spread
    return spread.T.unflatten(1, (side, side))


def spread_by_affinity(coarse: Tensor, affinity: Tensor, grid: tuple[int, int]) -> Tensor:
    """Coarse maps (C, h, w) on the grid of an affinity (P, P), each place the mean of those it is alike."""
    return (affinity @ resize_to(coarse[None].float(), grid)[0].flatten(1).T).T.unflatten(1, grid)


def read_maps(folder: str | Path | None, image: str | None) -> Tensor:
    """The attention maps (K, N, N) of an image, from FOLDER/NAME.safetensors, where NAME is that of the image.

    Raises:
        CapabilityError: no folder was given. DataError: no such file, or not such maps.
    """
    if folder is None:
        raise CapabilityError(NEEDED)
    if not image:
        raise DataError(f"{folder}: maps are found by the file name of an image, and this one has none (img_path)")
    path = Path(folder) / f"{Path(image).stem}.safetensors"
    try:
        maps = load_file(path).get(KEY)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read ({reason}); save the maps of this image there") from None
    if maps is None or maps.ndim != 3 or {math.isqrt(cells) ** 2 for cells in maps.shape[1:]} != {maps.shape[2]}:
        raise DataError(f"{path}: has no tensor '{KEY}' of shape (K, N, N) with N a square number; save it so")
    return maps

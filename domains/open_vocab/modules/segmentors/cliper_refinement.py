"""CLIPer's fine compensation: coarse maps spread along a diffusion model's self-attention, or another model's likeness.

See `cliper_features.py` for the paper.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .....core.contracts.errors import CapabilityError, DataError
from .training_free import resize_to

SMALL = 1e-5
KEY = "maps"
NEEDED = (
    "refine='diffusion' takes ready self-attention maps, a file an image, by maps=FOLDER: those of Stable Diffusion "
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

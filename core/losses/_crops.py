"""DINOv2's views of an image: global and local crops, and which patches of the global ones are hidden.

DINOv2: Learning Robust Visual Features without Supervision, 2023, arXiv 2304.07193; blocks of hidden patches as in
BEiT: BERT Pre-Training of Image Transformers, 2021, arXiv 2106.08254.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from ..contracts.images import ImageSize

GLOBAL = 2
JITTERED = 0.8
"""How often colours are jittered."""
BLUR = {"kernel_size": 9, "sigma": (0.1, 2.0)}
SOLARIZED_FROM = 128 / 255
LEAST_BLOCK = 4
"""Patches of a block, at least."""
MOST_BLOCK = 0.5
"""Share of all patches that one block has at most."""
ASPECTS = (0.3, 1 / 0.3)
TRIES = 10


def crop_of(
    size: ImageSize,
    scale: tuple[float, float],
    *,
    flip: float,
    jitter: Sequence[float],
    grey: float,
    blur: float,
    solarize: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable[[Tensor], Tensor]:
    """One crop: pixels (3, H, W) in 0..1 -> (3, S, S), normalised.

    Args:
        size: of the crop.
        scale: shares of the image's area that it has.
        flip, grey, blur, solarize: how often.
        jitter: of brightness, contrast, saturation and hue.
    """
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    steps = [
        crop,
        v2.RandomHorizontalFlip(flip),
        v2.Lambda(lambda pixels: pixels.clamp(0, 1)),
        v2.RandomApply([v2.ColorJitter(*jitter)], p=JITTERED),
        v2.RandomGrayscale(p=grey),
        v2.RandomApply([v2.GaussianBlur(**BLUR)], p=blur),
        v2.RandomSolarize(SOLARIZED_FROM, p=solarize),
        v2.Normalize(list(mean), list(std)),
    ]
    return v2.Compose(steps)


def hidden_places(grid: tuple[int, int], share: tuple[float, float], probability: float) -> Tensor:
    """(G', M) int64: the hidden patches of the two global crops of an image, one row per crop that has any.

    A patch is numbered among those of both crops, row by row; -1 fills up. Draws come from torch's generator.

    Args:
        grid: (h, w) of a crop.
        share: range of the share of a crop's patches that is hidden.
        probability: how many of all crops have hidden patches; each image has 2 p of them on average, rounded up or
            down.
    """
    patches = grid[0] * grid[1]
    places = torch.full((masked_crops(probability), most_hidden_patches(patches, share)), -1)
    count = int(GLOBAL * probability + float(torch.rand(())))
    for row, crop in enumerate(torch.randperm(GLOBAL)[:count].tolist()):
        hidden = block_mask(grid, int(patches * _uniform(*share))).flatten().nonzero().flatten()
        places[row, : len(hidden)] = crop * patches + hidden
    return places


def masked_crops(probability: float) -> int:
    """G', how many crops of an image have hidden patches at most."""
    return math.ceil(GLOBAL * probability)


def most_hidden_patches(patches: int, share: tuple[float, float]) -> int:
    """M, how many patches of a crop are hidden at most."""
    return max(1, int(patches * share[1]))


def block_mask(grid: tuple[int, int], count: int) -> Tensor:
    """(h, w) bool, at most `count` of them, in rectangles of `LEAST_BLOCK` patches and more where there is room."""
    mask = torch.zeros(grid, dtype=torch.bool)
    while (left := min(count - int(mask.sum()), int(MOST_BLOCK * mask.numel()))) > 0:
        if not _add_block(mask, left):
            break
    return mask


def _add_block(mask: Tensor, left: int) -> bool:
    """Hide a rectangle with at most so many patches that are not hidden yet; whether one fitted."""
    height, width = mask.shape
    for _ in range(TRIES):
        area, aspect = _uniform(LEAST_BLOCK, left), math.exp(_uniform(*map(math.log, ASPECTS)))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows >= height or columns >= width:
            continue
        top, start = (int(torch.randint(room + 1, ())) for room in (height - rows, width - columns))
        block = mask[top : top + rows, start : start + columns]
        if 0 < int((~block).sum()) <= left:
            block.fill_(True)
            return True
    return False


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


@contextmanager
def patches_hidden(layer: nn.Module, places: Tensor, token: Tensor) -> Iterator[None]:
    """Inside, what gives the patches gives a learned token for the hidden ones, before positions are added.

    Args:
        layer: gives (n * c, W, h, w), the c crops of each image one after the other.
        places: (n, L) int64, of the hidden patches among the c * h * w of an image; below 0: none.
        token: (W,).
    """

    def hide(module: nn.Module, inputs: tuple, patches: Tensor) -> Tensor:
        count, grid = len(patches) // len(places) * patches[0, 0].numel(), patches.shape[-2:]
        hidden = torch.zeros(len(places), count + 1, dtype=torch.bool, device=places.device)
        hidden = hidden.scatter(1, torch.where(places < 0, count, places), True)[:, :count]
        return torch.where(hidden.reshape(-1, 1, *grid), token.to(patches.dtype)[:, None, None], patches)

    handle = layer.register_forward_hook(hide)
    try:
        yield
    finally:
        handle.remove()

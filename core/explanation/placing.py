"""Where a heat map lies in the image that it explains: towers see images cut and resized."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.items import Decoded

INSIDE = (0.02, 0.98)
"""Shares of a side between which positions are trusted: at the edges, a resized ramp is clipped."""


def on_image(
    heat: Tensor, size: tuple[int, int], transform: Callable[[Decoded], Tensor], towers: Backbone
) -> np.ndarray:
    """(H, W) float32: the map on the pixels of the decoded image, 0 where the tower saw nothing of it.

    What the transform does to positions is read off an image whose colours are its positions, so that it may cut and
    resize both sides as it likes.

    Args:
        heat: (h, w) in 0..1, on the pixels of the tower.
        size: (H, W) of the decoded image.
        transform: decoded image -> pixels (3, h, w), as the tower took it.
        towers: whose mean and standard deviation the transform normalises with.
    """
    height, width = size
    ramp = np.zeros((height, width, 3), dtype=np.float32)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    mean, std = (torch.tensor(values[:3])[:, None, None] for values in (towers.image_mean, towers.image_std))
    seen = transform(ramp)[:3].float().cpu() * std + mean  # (3, h, w)
    columns = _places(seen[0].mean(dim=0).numpy(), width)
    rows = _places(seen[1].mean(dim=1).numpy(), height)
    at = [
        torch.from_numpy(places / max(side - 1, 1) * 2 - 1)
        for places, side in ((columns, heat.shape[1]), (rows, heat.shape[0]))
    ]
    grid = torch.stack(torch.meshgrid(*at, indexing="xy"), dim=-1)[None].float()  # (1, H, W, 2)
    values = F.grid_sample(heat[None, None].float().cpu(), grid, padding_mode="border", align_corners=True)[
        0, 0
    ].numpy()
    outside = [
        (places < -0.5) | (places > side - 0.5) for places, side in ((columns, heat.shape[1]), (rows, heat.shape[0]))
    ]
    values[:, outside[0]], values[outside[1]] = 0, 0
    return values


def _places(shares: np.ndarray, side: int) -> np.ndarray:
    """(side,) the tower's row or column, in fractions, of each of an image.

    Args:
        shares: of each row or column of the tower the place in the image, 0 its first pixel and 1 its last.
    """
    trusted = np.flatnonzero((shares > INSIDE[0]) & (shares < INSIDE[1]))
    if len(trusted) < 2 or np.ptp(shares[trusted]) == 0:  # of an image of a pixel or two
        return np.linspace(0, len(shares) - 1, side)
    slope, first = np.polyfit(trusted, shares[trusted], 1)
    return (np.linspace(0, 1, side) - first) / slope

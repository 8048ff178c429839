"""Frames of clips as tensors (B, T, D) with a mask (B, T): their order, their mean, the place of each in its clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

POSITIONS = 77
"""Places of learned positions, as many as CLIP's text tower has."""


def valid_first(frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same clips with the frames that are there in front, in their order, and zeros behind.

    Args:
        frames: (B, T, D).
        mask: (B, T) bool.
    """
    order = (~mask).long().argsort(dim=1, stable=True)  # (B, T)
    mask = mask.gather(1, order)
    frames = frames.gather(1, order[..., None].expand_as(frames))
    return frames.masked_fill(~mask[..., None], 0), mask


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) and (B, T) bool -> (B, D), the mean of what is there.

    It is summed in float64, so that the order of the frames does not show in it.
    """
    total = x.double().masked_fill(~mask[..., None], 0).sum(dim=1)
    return (total / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(x.dtype)


def average_of_unit(frames: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) -> (B, D) unit: frames made unit, averaged, made unit again (CLIP4Clip's meanP)."""
    return F.normalize(masked_mean(F.normalize(frames, dim=-1), mask), dim=-1)


def times(mask: Tensor) -> Tensor:
    """(B, T) bool, frames in front -> (B, T) where in its clip each frame is: -1 the first, 1 the last, 0 the only."""
    place = mask.cumsum(dim=1) - 1
    last = (mask.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    time = 2 * place / last - 1
    return torch.where(mask.sum(dim=1, keepdim=True) > 1, time, torch.zeros_like(time)).masked_fill(~mask, 0.0)


def legendre(time: Tensor, degree: int) -> Tensor:
    """(...) in -1..1 -> (..., degree), the Legendre polynomials of degree 1 to `degree`."""
    values = [torch.ones_like(time), time]
    for k in range(1, degree):
        values.append(((2 * k + 1) * time * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values[1:], dim=-1)

"""Point-wise attention maps from over-complete masks, from "PSANet: Point-wise Spatial Attention Network for Scene
Parsing" (2018), ECCV."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_compiled

COLLECT, DISTRIBUTE = 0, 1


@as_compiled
def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fill `output` (N, H W, H, W) with attention between positions, zero beyond the mask.

    Args:
        input: (N, h_mask w_mask, H, W), at each position a mask centred on it.
        psa_type: 0 collect, the first axis is the position attended to; 1 distribute, it is the attending one.
    """
    channel, reached = _offsets(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, input.device)
    collected = input.flatten(2).gather(1, channel.expand(num_, -1, -1)) * reached  # (N, to, from)
    output.copy_((collected if psa_type == COLLECT else collected.transpose(1, 2)).reshape(output.shape))


@as_compiled
def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Fill `grad_input` (N, h_mask w_mask, H, W); mask entries that point outside the map get none."""
    channel, reached = _offsets(h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask, grad_output.device)
    gradient = grad_output.flatten(2)  # (N, H W, H W)
    gradient = (gradient if psa_type == COLLECT else gradient.transpose(1, 2)) * reached
    # A mask entry is read by one pair of positions at most, so that adding only ever adds zeros.
    spread = grad_input.new_zeros(num_, h_mask * w_mask, h_feature * w_feature)
    grad_input.copy_(spread.scatter_add_(1, channel.expand(num_, -1, -1), gradient).view(grad_input.shape))


def _offsets(height, width, h_mask, w_mask, half_h, half_w, device) -> tuple[Tensor, Tensor]:
    """(H W, H W) each, [to, from]: which mask entry lies between two positions, and whether the mask reaches so far."""
    row = _differences(height, device)[:, None, :, None] + half_h  # (to_h, 1, from_h, 1)
    column = _differences(width, device)[None, :, None, :] + half_w  # (1, to_w, 1, from_w)
    reached = (row >= 0) & (row < h_mask) & (column >= 0) & (column < w_mask)
    channel = (row * w_mask + column).where(reached, 0)
    return channel.reshape(height * width, -1), reached.reshape(height * width, -1)


def _differences(size: int, device) -> Tensor:
    position = torch.arange(size, device=device)
    return position[:, None] - position

"""Content-aware reassembly of features, from "CARAFE: Content-Aware ReAssembly of FEatures" (2019), arXiv 1905.02188.

Every output pixel is a weighted sum over the k x k neighbourhood of the input pixel it lies in. With channels last that
is, for each input pixel, a product of its (s^2, k^2) weights and its (k^2, C) patch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import as_compiled, widened

# Patches are kernel_size^2 times the features; a few rows of them at a time stay in the cache.
MAX_PATCH_NUMBERS = 2**22


@as_compiled
def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Fill `output` (N, C, s h, s w) for a scale_factor s.

    Args:
        features: (N, C, h, w).
        masks: (N, group_size kernel_size^2, s h, s w), the weights of each output pixel's neighbourhood.
        group_size: into how many groups of channels, each with masks of its own.
    """
    padded = _padded(features, kernel_size, group_size)
    weights = _by_input_pixel(widened(masks), group_size, scale_factor)  # (N, h, w, g, k^2, s^2)
    for rows in _row_blocks(features, kernel_size):
        tiles = weights[:, rows].transpose(4, 5) @ _patches(padded, rows, kernel_size)  # (N, r, w, g, s^2, C / g)
        output[:, :, rows.start * scale_factor : rows.stop * scale_factor] = _to_map(tiles, scale_factor)


@as_compiled
def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients of the features and of the masks from that of the output."""
    padded = _padded(features, kernel_size, group_size)
    weights = _by_input_pixel(widened(masks), group_size, scale_factor)
    tiles = _by_input_pixel(widened(top_grad), group_size, scale_factor)  # (N, h, w, g, C / g, s^2)
    grad_padded = torch.zeros_like(padded)
    for rows in _row_blocks(features, kernel_size):
        patches = _patches(padded, rows, kernel_size)
        grad_weights = (patches @ tiles[:, rows]).transpose(4, 5)  # (N, r, w, g, s^2, k^2)
        mask_grad[:, :, rows.start * scale_factor : rows.stop * scale_factor] = _to_map(grad_weights, scale_factor)
        _add_patches(weights[:, rows] @ tiles[:, rows].transpose(4, 5), grad_padded, rows, kernel_size)
    edge = kernel_size // 2
    inner = grad_padded[:, edge : -edge or None, edge : -edge or None]  # (N, h, w, g, C / g)
    bottom_grad.copy_(inner.flatten(3).permute(0, 3, 1, 2))


@as_compiled
def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; `rfeatures` keeps the features for the backward pass, the other two are buffers."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


@as_compiled
def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_backward`, of the features that the forward pass kept."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def _padded(features: Tensor, kernel: int, groups: int) -> Tensor:
    """(N, h + k - 1, w + k - 1, g, C / g), zeros around."""
    padded = F.pad(widened(features), [kernel // 2] * 4)
    return padded.permute(0, 2, 3, 1).contiguous().unflatten(3, (groups, -1))


def _row_blocks(features: Tensor, kernel: int) -> Iterator[slice]:
    batch, channels, height, width = features.shape
    step = max(1, MAX_PATCH_NUMBERS // max(1, batch * channels * width * kernel * kernel))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def _patches(padded: Tensor, rows: slice, kernel: int) -> Tensor:
    """(N, r, w, g, k^2, C / g): the neighbourhoods of the pixels of some rows."""
    around = padded[:, rows.start : rows.stop + kernel - 1].unfold(1, kernel, 1).unfold(2, kernel, 1)
    return around.permute(0, 1, 2, 3, 5, 6, 4).flatten(4, 5)


def _add_patches(patches: Tensor, padded: Tensor, rows: slice, kernel: int) -> None:
    """The inverse of `_patches`: add every number of the patches to where it was taken from in `padded`."""
    width = patches.shape[2]
    for down in range(kernel):
        for right in range(kernel):
            into = padded[:, rows.start + down : rows.stop + down, right : right + width]
            into += patches[..., down * kernel + right, :]


def _by_input_pixel(large: Tensor, groups: int, scale: int) -> Tensor:
    """(N, g c, s h, s w) as (N, h, w, g, c, s^2)."""
    batch, channels, height, width = large.shape
    tiled = large.reshape(batch, groups, channels // groups, height // scale, scale, width // scale, scale)
    return tiled.permute(0, 3, 5, 1, 2, 4, 6).flatten(5, 6)


def _to_map(tiles: Tensor, scale: int) -> Tensor:
    """(N, r, w, g, s^2, c) as (N, g c, s r, s w)."""
    batch, rows, width, groups, _, channels = tiles.shape
    apart = tiles.unflatten(4, (scale, scale)).permute(0, 3, 6, 1, 4, 2, 5)  # (N, g, c, r, s, w, s)
    return apart.reshape(batch, groups * channels, rows * scale, width * scale)

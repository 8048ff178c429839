"""Multi-scale deformable attention, from "Deformable DETR: Deformable Transformers for End-to-End Object Detection"
(2020), arXiv 2010.04159."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import as_compiled, widened


@as_compiled
def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The attended values (B, Q, M D) of M heads of width D.

    Args:
        value: (B, K, M, D), the levels one after the other.
        value_spatial_shapes: (L, 2), height and width of each level.
        value_level_start_index: (L,), where each level starts in K.
        sampling_locations: (B, Q, M, L, P, 2), x and y as shares of the level's size.
        attention_weights: (B, Q, M, L, P).
        im2col_step: how many images the compiled operator takes at a time.
    """
    levels = _levels(value_spatial_shapes, value_level_start_index)
    tensors = (widened(tensor) for tensor in (value, sampling_locations, attention_weights))
    return _attended(*tensors, levels).to(value.dtype)


@as_compiled
def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the three gradients, of the shapes of what they belong to, from `grad_output` (B, Q, M D)."""
    levels = _levels(value_spatial_shapes, value_level_start_index)
    tensors = (value, sampling_locations, attention_weights)
    with torch.enable_grad():
        leaves = [widened(tensor.detach()).requires_grad_() for tensor in tensors]
        gradients = torch.autograd.grad(_attended(*leaves, levels), leaves, widened(grad_output))
    for filled, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        filled.copy_(gradient)


def _levels(shapes: Tensor, starts: Tensor) -> list[tuple[int, int, int]]:
    """(start, height, width) of each level."""
    return [(start, *shape) for start, shape in zip(starts.tolist(), shapes.tolist(), strict=True)]


def _attended(value: Tensor, locations: Tensor, weights: Tensor, levels: list[tuple[int, int, int]]) -> Tensor:
    batch, queries, heads = locations.shape[:3]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # (L, B M, Q, P, 2)
    weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2)[:, :, None]  # (L, B M, 1, Q, P)
    total = value.new_zeros(batch * heads, value.shape[3], queries)
    for (start, height, width), grid, weight in zip(levels, grids, weights, strict=True):
        level = value[:, start : start + height * width].permute(0, 2, 3, 1).reshape(batch * heads, -1, height, width)
        sampled = F.grid_sample(level, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        total = total + (sampled * weight).sum(dim=-1)  # (B M, D, Q)
    return total.unflatten(0, (batch, heads)).permute(0, 3, 1, 2).flatten(2)

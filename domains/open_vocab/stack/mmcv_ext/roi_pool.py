"""RoIPool, from "Fast R-CNN" (2015), arXiv 1504.08083, with mmcv's bounds: not rounded, one pixel past the far one."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import as_compiled, widened
from .region_grid import channels_last, chunks_by_grid, in_bins, pixels_of


@as_compiled
def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill `output` with the largest pixel of each bin, and `argmax` with where in the plane it was.

    A bin without pixels gives 0 and -1, and so does a region of no size: no gradient comes back from them.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), image index, x1, y1, x2, y2 in pixels of the image.
        output: (R, C, pooled_height, pooled_width).
        argmax: (R, C, pooled_height, pooled_width) int.
        spatial_scale: size of `input` over that of the image.
    """
    features = widened(input)
    regions = rois.to(features.dtype)
    images, index, (height, width) = channels_last(features), regions[:, 0].long(), input.shape[2:]
    top, bottom = _bounds(regions[:, 2], regions[:, 4], pooled_height, spatial_scale, height)
    left, right = _bounds(regions[:, 1], regions[:, 3], pooled_width, spatial_scale, width)
    grids = torch.stack([(bottom - top).amax(dim=1), (right - left).amax(dim=1)], dim=1)
    for chunk, rows, columns in chunks_by_grid(grids, input.shape[1] * pooled_height * pooled_width):
        if rows * columns == 0:
            output[chunk], argmax[chunk] = 0, -1
            continue
        y, with_y = _pixels(top[chunk], bottom[chunk], rows)
        x, with_x = _pixels(left[chunk], right[chunk], columns)
        pixels = pixels_of(images, index[chunk], y.flatten(1), x.flatten(1))
        for filled, part in zip((output, argmax), _largest(pixels, y, x, with_y, with_x, width), strict=True):
            filled[chunk] = part.permute(0, 3, 1, 2).to(filled.dtype)


@as_compiled
def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill `grad_input` (B, C, H, W): each gradient goes to the pixel its bin took."""
    batch, channels, height, width = grad_input.shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)  # (R, C)
    where = plane[:, :, None, None] * height * width + argmax.long().clamp(min=0)
    gradient = widened(grad_output) * (argmax >= 0)
    total = gradient.new_zeros(batch * channels * height * width).index_add_(0, where.flatten(), gradient.flatten())
    grad_input.copy_(total.view(grad_input.shape))


def _bounds(near: Tensor, far: Tensor, bins: int, scale: float, size: int) -> tuple[Tensor, Tensor]:
    """(R, bins) int64 each: the first pixel of each bin along one axis, and the one after its last."""
    start, end = near * scale, (far + 1) * scale
    extent = end - start
    bin_size, step = (extent / bins)[:, None], torch.arange(bins, device=near.device)
    first = (step * bin_size + start[:, None]).floor().long().clamp(0, size)
    after = ((step + 1) * bin_size + start[:, None]).ceil().long().clamp(0, size)
    return first, after.where((extent > 0)[:, None], first).maximum(first)


def _pixels(first: Tensor, after: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(R, bins, count) each: the pixels from `first` on, and whether they are before `after`."""
    pixel = first[:, :, None] + torch.arange(count, device=first.device)
    within = pixel < after[:, :, None]
    return pixel.where(within, 0), within


def _largest(pixels: Tensor, y: Tensor, x: Tensor, with_y: Tensor, with_x: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(R, bins, bins, C) each: the largest pixel of a bin and its place in the plane, 0 and -1 for an empty bin."""
    counted = (with_y[:, :, None, :, None] & with_x[:, None, :, None, :]).flatten(3)  # (R, bins, bins, pixels)
    places = (y[:, :, None, :, None] * width + x[:, None, :, None, :]).flatten(3)
    candidates = in_bins(pixels, y.shape[1], x.shape[1]).masked_fill(~counted[..., None], -torch.inf)
    largest, where = candidates.max(dim=3)
    empty = ~counted.any(dim=3, keepdim=True)
    return largest.masked_fill(empty, 0), places.gather(3, where).masked_fill(empty, -1)

"""Columns of chosen positions of one image, and back: what a convolution under a mask is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .....core.errors import DataError
from .precision import as_compiled


@as_compiled
def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill `col` (C kernel_h kernel_w, M) with the patches of `im` (1, C, H, W) at M output positions.

    Raises:
        DataError: more than one image.
    """
    _one_image(im)
    bottom, right = max(0, kernel_h - 1 - pad_h), max(0, kernel_w - 1 - pad_w)
    padded = F.pad(im[0], (pad_w, right, pad_h, bottom))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]  # (kernel_h, M)
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]  # (kernel_w, M)
    col.copy_(padded[:, rows[:, None], columns[None]].flatten(0, 2))


@as_compiled
def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write `col` (channels, M) to the M positions of `im` (1, channels, height, width); those outside are dropped.

    Raises:
        DataError: more than one image.
    """
    _one_image(im)
    inside = (mask_h_idx < height) & (mask_w_idx < width)
    im[0][:, mask_h_idx[inside], mask_w_idx[inside]] = col[:, inside].to(im.dtype)


def _one_image(im: Tensor) -> None:
    if len(im) != 1:
        raise DataError(f"masked_conv2d: a batch of {len(im)} images; the operator takes one image at a time")

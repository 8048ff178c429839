"""Deformable convolution, plain and modulated.

A sample whose place is not inside (-1, size), or is not a number, counts for nothing, and its offset has no gradient,
as in mmcv. torchvision's operators give places at -1 a gradient from one side, and crash at those that are no numbers.

Papers: "Deformable Convolutional Networks" (2017), arXiv 1703.06211; "Deformable ConvNets v2: More Deformable, Better
Results" (2018), arXiv 1811.11168.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .....core.errors import DataError
from .precision import as_compiled, widened

AWAY = -2
"""A row and column that no sample of an image reaches."""


class Geometry(NamedTuple):
    """Where a kernel is laid: (rows, columns) each."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    def output_size(self, image: Tensor) -> tuple[int, int]:
        """(rows, columns) of the output for an input (B, C, H, W)."""
        reach = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(self.dilation, self.kernel, strict=True)]
        rows, columns = (
            (size + 2 * padding - extent) // stride + 1
            for size, padding, extent, stride in zip(image.shape[2:], self.padding, reach, self.stride, strict=True)
        )
        return rows, columns

    def places(self, image: Tensor, axis: int) -> Tensor:
        """(kH kW, H', W'), rows (axis 0) or columns (axis 1) of the image where samples lie without offsets."""
        laid = [torch.arange(size, device=image.device) for size in (*self.kernel, *self.output_size(image))]
        i, at = torch.meshgrid(*laid, indexing="ij")[axis::2]
        return (at * self.stride[axis] - self.padding[axis] + i * self.dilation[axis]).flatten(0, 1)

    def numbers(self) -> tuple[int, ...]:
        """As torchvision's operators take them."""
        return *self.stride, *self.padding, *self.dilation, self.groups, self.deform_groups


class Gradients(NamedTuple):
    """In the order torchvision returns them; that of the mask is empty without one."""

    image: Tensor
    weight: Tensor
    offset: Tensor
    mask: Tensor
    bias: Tensor


# mmcv asks for the gradients of one backward pass in two calls that share grad_output; one computation gives both:
# (the buffer that tells of which convolution it is, the weight's gradient).
_kept_gradients = WeakIdKeyDictionary()


@as_compiled
def deform_conv_forward(
    input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, group,
    deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Fill `output` (B, O, H', W'); `columns`, `ones` and `im2col_step` are the compiled operator's buffers.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kH, kW).
        offset: (B, 2 deformable_group kH kW, H', W'), row and column by turns.
    """
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(_convolved(geometry, input, weight, offset))


@as_compiled
def deform_conv_backward_input(
    input, offset, gradOutput, gradInput, gradOffset, weight, columns, kW, kH, dW, dH, padW, padH, dilationW, dilationH,
    group, deformable_group, im2col_step,
) -> None:  # fmt: skip
    """Fill `gradInput` and `gradOffset`, of the shapes of `input` and `offset`."""
    geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    gradients = _gradients(geometry, gradOutput, input, weight, offset)
    gradInput.copy_(gradients.image)
    gradOffset.copy_(gradients.offset)
    _kept_gradients[gradOutput] = columns, gradients.weight


@as_compiled
def deform_conv_backward_parameters(
    input, offset, gradOutput, gradWeight, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, group,
    deformable_group, scale, im2col_step,
) -> None:  # fmt: skip
    """Add `scale` times the gradient of the weight to `gradWeight`."""
    buffer, gradient = _kept_gradients.pop(gradOutput, (None, None))
    if buffer is not columns:
        geometry = Geometry((kH, kW), (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
        gradient = _gradients(geometry, gradOutput, input, torch.zeros_like(gradWeight), offset).weight
    gradWeight.add_(gradient, alpha=scale)


@as_compiled
def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
    dilation_h, dilation_w, group, deformable_group, with_bias,
) -> None:  # fmt: skip
    """Fill `output`; `mask` (B, deformable_group kH kW, H', W') scales every sample.

    Offsets and masks larger than the output are read as the compiled operator reads them: an image's numbers from the
    first on, in rows of the output's length. The heads of ATSS-DyHead and GLIP were trained with that.
    """
    geometry = Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    offset, mask = _fitted(geometry, input, offset, mask)
    output.copy_(_convolved(geometry, input, weight, offset, mask, bias if with_bias else None))


@as_compiled
def modulated_deform_conv_backward(
    input, weight, bias, ones, offset, mask, columns, grad_input, grad_weight, grad_bias, grad_offset, grad_mask,
    grad_output, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group,
    with_bias,
) -> None:  # fmt: skip
    """Fill the five gradients; offsets and masks that the output did not reach get none."""
    geometry = Geometry(
        (kernel_h, kernel_w), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    used_offset, used_mask = _fitted(geometry, input, offset, mask)
    gradients = _gradients(geometry, grad_output, input, weight, used_offset, used_mask)
    grad_input.copy_(gradients.image)
    grad_weight.add_(gradients.weight)
    _spread(gradients.offset, grad_offset)
    _spread(gradients.mask, grad_mask)
    if with_bias:
        grad_bias.add_(gradients.bias)


def _convolved(geometry, image, weight, offset, mask=None, bias=None) -> Tensor:
    image, weight, offset = widened(image), widened(weight), _outside_away(geometry, image, widened(offset))
    mask_or_none = image.new_zeros(len(image), 0) if mask is None else widened(mask)
    bias = weight.new_zeros(len(weight)) if bias is None else widened(bias)
    return torch.ops.torchvision.deform_conv2d(
        image, weight, offset, mask_or_none, bias, *geometry.numbers(), mask is not None
    )


def _gradients(geometry, grad_output, image, weight, offset, mask=None) -> Gradients:
    offset = _outside_away(geometry, image, widened(offset))
    image, weight, grad_output = (widened(tensor) for tensor in (image, weight, grad_output))
    mask_or_none = image.new_zeros(len(image), 0) if mask is None else widened(mask)
    bias = weight.new_zeros(len(weight))
    return Gradients(
        *torch.ops.torchvision._deform_conv2d_backward(
            grad_output, image, weight, offset, mask_or_none, bias, *geometry.numbers(), mask is not None
        )
    )


def _outside_away(geometry: Geometry, image: Tensor, offset: Tensor) -> Tensor:
    """The offsets, those of samples that are not inside so that these lie at `AWAY`, where they have no gradient."""
    by_sample = offset.unflatten(1, (geometry.deform_groups, -1, 2))  # (B, groups, kH kW, 2, H', W')
    laid = torch.stack([geometry.places(image, axis) for axis in (0, 1)], dim=1)
    places, sizes = laid + by_sample, image.new_tensor(image.shape[2:], dtype=offset.dtype)[:, None, None]
    inside = ((places > -1) & (places < sizes)).all(dim=3, keepdim=True)
    return torch.where(inside, by_sample, AWAY - laid).view_as(offset)


def _fitted(geometry: Geometry, image: Tensor, offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Offset and mask of the output's size, from the first numbers of each image's."""
    size = geometry.output_size(image)
    samples = geometry.deform_groups * geometry.kernel[0] * geometry.kernel[1]
    return _leading(offset, 2 * samples, size, "offset"), _leading(mask, samples, size, "mask")


def _leading(tensor: Tensor, channels: int, size: tuple[int, int], name: str) -> Tensor:
    if tensor.shape[1:] == (channels, *size):
        return tensor
    flat, needed = tensor.flatten(1), channels * size[0] * size[1]
    if flat.shape[1] < needed:
        raise DataError(
            f"modulated_deform_conv: {name} of shape {tuple(tensor.shape)} is too small; "
            f"give {channels} channels of the output's size, {size[0]} x {size[1]}"
        )
    return flat[:, :needed].reshape(-1, channels, *size)


def _spread(gradient: Tensor, into: Tensor) -> None:
    """The inverse of `_leading`: the gradient over the first numbers of each image of `into`, zero after them."""
    if gradient.shape != into.shape:
        missing = into[0].numel() - gradient[0].numel()
        gradient = torch.nn.functional.pad(gradient.flatten(1), (0, missing)).view(into.shape)
    into.copy_(gradient)

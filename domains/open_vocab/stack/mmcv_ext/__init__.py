"""The functions of mmcv 2.1's compiled extension over torchvision and plain torch, one file per operator family."""

from __future__ import annotations

from collections.abc import Callable

from .carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from .deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .masked_conv import masked_col2im_forward, masked_im2col_forward
from .ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from .nms import bbox_overlaps, nms, nms_match, softnms
from .not_offered import NOT_OFFERED, refusing
from .precision import get_compiler_version, get_compiling_cuda_version
from .psamask import psamask_backward, psamask_forward
from .roi_align import roi_align_backward, roi_align_forward
from .roi_align_rotated import roi_align_rotated_backward, roi_align_rotated_forward
from .roi_pool import roi_pool_backward, roi_pool_forward
from .rotated_boxes import box_iou_quadri, box_iou_rotated, nms_quadri, nms_rotated

OFFERED: tuple[Callable, ...] = (
    bbox_overlaps,
    box_iou_quadri,
    box_iou_rotated,
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    get_compiler_version,
    get_compiling_cuda_version,
    masked_col2im_forward,
    masked_im2col_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    nms,
    nms_match,
    nms_quadri,
    nms_rotated,
    psamask_backward,
    psamask_forward,
    roi_align_backward,
    roi_align_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
    roi_pool_backward,
    roi_pool_forward,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
    softnms,
)


def operators() -> dict[str, Callable]:
    """Every function that mmcv's Python looks up in `mmcv._ext`, by name; those not offered raise CapabilityError."""
    return {name: refusing(name) for name in NOT_OFFERED} | {function.__name__: function for function in OFFERED}

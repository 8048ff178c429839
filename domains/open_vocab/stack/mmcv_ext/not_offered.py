"""The operators of mmcv 2.1 that no packaged mmdet or mmsegmentation config needs: there to import, refused on use."""

from __future__ import annotations

from collections.abc import Callable

from .....core.errors import CapabilityError

NOT_OFFERED = (
    "active_rotated_filter_backward",
    "active_rotated_filter_forward",
    "assign_score_withk_backward",
    "assign_score_withk_forward",
    "ball_query_forward",
    "bezier_align_backward",
    "bezier_align_forward",
    "bias_act",
    "border_align_backward",
    "border_align_forward",
    "chamfer_distance_backward",
    "chamfer_distance_forward",
    "contour_expand",
    "convex_giou",
    "convex_iou",
    "correlation_backward",
    "correlation_forward",
    "diff_iou_rotated_sort_vertices_forward",
    "dynamic_point_to_voxel_backward",
    "dynamic_point_to_voxel_forward",
    "dynamic_voxelize_forward",
    "filtered_lrelu",
    "filtered_lrelu_act_",
    "furthest_point_sampling_forward",
    "furthest_point_sampling_with_dist_forward",
    "fused_bias_leakyrelu",
    "fused_indice_conv_forward",
    "gather_points_backward",
    "gather_points_forward",
    "get_indice_pairs_2d_backward",
    "get_indice_pairs_2d_forward",
    "get_indice_pairs_3d_backward",
    "get_indice_pairs_3d_forward",
    "get_indice_pairs_4d_forward",
    "group_points_backward",
    "group_points_forward",
    "hard_voxelize_forward",
    "indice_conv_backward",
    "indice_conv_forward",
    "indice_maxpool_backward",
    "indice_maxpool_forward",
    "iou3d_boxes_overlap_bev_forward",
    "iou3d_nms3d_forward",
    "iou3d_nms3d_normal_forward",
    "knn_forward",
    "min_area_polygons",
    "pixel_group",
    "points_in_boxes_all_forward",
    "points_in_boxes_cpu_forward",
    "points_in_boxes_part_forward",
    "points_in_polygons_forward",
    "prroi_pool_backward",
    "prroi_pool_coor_backward",
    "prroi_pool_forward",
    "riroi_align_rotated_backward",
    "riroi_align_rotated_forward",
    "roiaware_pool3d_backward",
    "roiaware_pool3d_forward",
    "roipoint_pool3d_forward",
    "rotated_feature_align_backward",
    "rotated_feature_align_forward",
    "stack_ball_query_forward",
    "stack_group_points_backward",
    "stack_group_points_forward",
    "sync_bn_backward_data",
    "sync_bn_backward_param",
    "sync_bn_forward_mean",
    "sync_bn_forward_output",
    "sync_bn_forward_var",
    "three_interpolate_backward",
    "three_interpolate_forward",
    "three_nn_forward",
    "tin_shift_backward",
    "tin_shift_forward",
    "upfirdn2d",
)


def refusing(name: str) -> Callable:
    """An operator that raises CapabilityError naming itself, whatever it is called with."""

    def refuse(*args, **kwargs):
        raise CapabilityError(
            f"mmcv operator {name!r} is not among those vladapt offers without a compiler; install a compiled mmcv "
            "(pip uninstall mmcv-lite; pip install 'mmcv>=2.0.0rc4,<2.2.0'), which is then used by itself"
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse

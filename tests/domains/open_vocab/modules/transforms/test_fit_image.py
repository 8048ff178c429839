"""Large images are made smaller with all that lies on them; small ones stay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks

from vladapt.registry import TRANSFORMS


def fit(width, height, scale=(64, 32)):
    return sample_fit(TRANSFORMS.build({"type": "vladapt.FitImage", "scale": scale}), width, height)


def sample_fit(transform, width, height):
    mask = np.zeros((1, height, width), np.uint8)
    mask[:, : height // 2] = 1
    return transform(
        {
            "img": np.full((height, width, 3), 7, np.uint8),
            "img_shape": (height, width),
            "gt_bboxes": HorizontalBoxes([[0, 0, width, height / 2]]),
            "gt_masks": BitmapMasks(mask, height, width),
            "gt_seg_map": mask[0].copy(),
        }
    )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ((64, 32), (64, 32)),
        ((20, 10), (20, 10)),
        ((32, 64), (32, 64)),
        ((128, 64), (64, 32)),
        ((64, 128), (32, 64)),
        ((128, 32), (64, 16)),
        ((64, 64), (32, 32)),
    ],
)
def test_sides_fit_and_keep_their_ratio_whichever_is_longer(given, made):
    found = fit(*given)
    assert found["img"].shape == (made[1], made[0], 3) and found["img_shape"] == (made[1], made[0])
    assert found["scale_factor"] == pytest.approx((made[0] / given[0], made[1] / given[1]))


def test_boxes_masks_and_maps_go_along():
    found = fit(128, 64)
    assert found["gt_bboxes"].tensor.tolist() == [[0, 0, 64, 16]]
    assert found["gt_masks"].masks.shape == (1, 32, 64) and found["gt_masks"].masks[0, :16].all()
    assert found["gt_seg_map"].shape == (32, 64)
    assert found["gt_seg_map"][:15].all() and not found["gt_seg_map"][17:].any()


def test_the_scale_is_what_counts():
    assert fit(128, 64, scale=(32, 32))["img"].shape == (16, 32, 3)


def test_one_transform_serves_images_of_many_sizes_at_once():
    transform = TRANSFORMS.build({"type": "vladapt.FitImage", "scale": (64, 32)})
    sizes = [(20 + i % 7, 10 + i % 5) for i in range(200)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda size: sample_fit(transform, *size)["img"].shape, sizes))
    assert found == [(height, width, 3) for width, height in sizes]

"""Random crops: what is left of boxes, and what goes."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them

from mmdet.structures.bbox import HorizontalBoxes

from vladapt import ConfigError
from vladapt.domains.open_vocab.modules.transforms.owl_mosaic import OWLRandomCrop
from vladapt.registry import TRANSFORMS

HEIGHT, WIDTH = 40, 60


def picture():
    """Every pixel tells its place; two boxes."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return {
        "img": np.stack([rows, columns, rows], axis=-1).astype(np.uint8),
        "gt_bboxes": HorizontalBoxes(torch.tensor([[5.0, 5, 25, 15], [40, 20, 58, 38]])),
        "gt_bboxes_labels": np.array([3, 4]),
        "gt_ignore_flags": np.array([False, True]),
        "gt_masks": "masks",
    }


def crops(count=60, **options):
    np.random.seed(0)
    return [OWLRandomCrop(**options)(picture()) for _ in range(count)]


def test_boxes_stay_on_what_they_held():
    found = 0
    for crop in crops(min_area_left=0.0):
        top, left = crop["img"][0, 0, :2].tolist()
        wanted = picture()["gt_bboxes"].tensor - torch.tensor([left, top, left, top]).float()
        height, width = crop["img_shape"]
        wanted = wanted.clamp(min=0).minimum(torch.tensor([width, height, width, height]).float())
        inside = ((wanted[:, 2:] - wanted[:, :2]) > 0).all(dim=1)
        torch.testing.assert_close(crop["gt_bboxes"].tensor, wanted[inside])
        assert crop["gt_bboxes_labels"].tolist() == np.array([3, 4])[inside.numpy()].tolist()
        assert len(crop["gt_ignore_flags"]) == int(inside.sum()) and "gt_masks" not in crop
        found += int(inside.sum())
    assert 60 < found < 120


def test_sizes_and_proportions_are_in_their_ranges():
    shapes = np.array([crop["img_shape"] for crop in crops()])
    shares, aspects = shapes.prod(axis=1) / (HEIGHT * WIDTH), shapes[:, 1] / shapes[:, 0]
    assert shares.min() > 0.27 and shares.max() <= 1.0 and np.ptp(shares) > 0.4
    assert aspects.min() > 0.7 and aspects.max() < 1.4


def test_objects_of_which_too_little_is_left_go():
    kept = [sum(len(crop["gt_bboxes"]) for crop in crops(min_area_left=share)) for share in (0.0, 0.6, 1.0)]
    assert kept[0] > kept[1] > kept[2] > 0


def test_every_option_changes_a_crop():
    first = [crop["img_shape"] for crop in crops(5)]
    assert [crop["img_shape"] for crop in crops(5, area_range=(0.1, 0.2))] != first
    assert [crop["img_shape"] for crop in crops(5, aspect_range=(0.4, 0.5))] != first


def test_an_image_into_which_no_crop_fits_stays_whole():
    assert crops(1, area_range=(0.99, 1.0), aspect_range=(0.1, 0.1))[0]["img_shape"] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("options", [{"area_range": (0.5, 2)}, {"aspect_range": (0, 1)}, {"min_area_left": 2}])
def test_options_that_cannot_be_used_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"OWLRandomCrop: {next(iter(options))}"):
        OWLRandomCrop(**options)


def test_configs_name_it():
    assert "min_area_left=0.6" in repr(TRANSFORMS.build({"type": "vladapt.OWLRandomCrop"}))

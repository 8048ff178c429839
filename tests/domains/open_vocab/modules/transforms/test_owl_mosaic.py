"""Mosaics: every image whole in its tile, its boxes with it."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them

from mmdet.structures.bbox import HorizontalBoxes

from vladapt import ConfigError
from vladapt.domains.open_vocab.modules.transforms.owl_mosaic import OWLMosaic
from vladapt.registry import TRANSFORMS


def image(value, size=(20, 40), box=(10, 5, 30, 15), label=0, **more):
    return {
        "img": np.full((*size, 3), value, np.uint8),
        "gt_bboxes": HorizontalBoxes(torch.tensor([box]).float()),
        "gt_bboxes_labels": np.array([label]),
        "gt_ignore_flags": np.array([False]),
        **more,
    }


def mosaic(count, size=24, **options):
    images = [image(10 * (i + 1), label=i) for i in range(count)]
    return OWLMosaic(size, (1, 2, 3), (0.4, 0.3, 0.3), **options)({**images[0], "mix_results": images[1:]})


@pytest.mark.parametrize(("count", "tile"), [(1, 24), (4, 12), (9, 8)])
def test_each_image_lies_whole_in_the_corner_of_its_tile(count, tile):
    made, grid = mosaic(count), 24 // tile
    assert made["img"].shape == (24, 24, 3) and made["img_shape"] == (24, 24)
    for place in range(count):
        top, left = (tile * step for step in divmod(place, grid))
        whole = made["img"][top : top + tile // 2, left : left + tile]
        assert (whole == 10 * (place + 1)).all()
        below = made["img"][top + tile // 2 : top + tile, left : left + tile]
        assert (below == 127).all()


def test_boxes_labels_and_flags_go_with_their_images():
    made = mosaic(4)
    scale = 12 / 40
    wanted = torch.tensor([[10.0, 5, 30, 15]]) * scale + torch.tensor(
        [[0.0, 0, 0, 0], [12, 0, 12, 0], [0, 12, 0, 12], [12, 12, 12, 12]]
    )
    torch.testing.assert_close(made["gt_bboxes"].tensor, wanted)
    assert made["gt_bboxes_labels"].tolist() == [0, 1, 2, 3] and len(made["gt_ignore_flags"]) == 4


def test_images_of_a_mosaic_stay_as_they_were():
    images = [image(10) for _ in range(4)]
    OWLMosaic(24)({**images[0], "mix_results": images[1:]})
    assert all(one["gt_bboxes"].tensor.tolist() == [[10, 5, 30, 15]] for one in images)


def test_absent_classes_are_those_that_no_image_shows():
    images = [image(1, label=i, facts={"absent": absent}) for i, absent in enumerate(([5, 1], [7], [], [5]))]
    assert OWLMosaic(24)({**images[0], "mix_results": images[1:]})["facts"] == {"absent": [5, 7]}
    assert mosaic(4)["facts"] == {}


def test_masks_are_left_out_and_plain_boxes_stay_plain():
    made = OWLMosaic(24)(image(1, gt_masks="masks", gt_seg_map="map"))
    assert "gt_masks" not in made and "gt_seg_map" not in made
    plain = [{**image(1), "gt_bboxes": np.array([[10, 5, 30, 15]], np.float32)} for _ in range(4)]
    assert isinstance(OWLMosaic(24)({**plain[0], "mix_results": plain[1:]})["gt_bboxes"], np.ndarray)


def test_grids_are_drawn_as_often_as_published():
    np.random.seed(0)
    counts = [len(OWLMosaic().get_indexes(range(50))) for _ in range(500)]
    shares = [counts.count(count) / 500 for count in (0, 3, 8)]
    assert shares == pytest.approx([0.4, 0.3, 0.3], abs=0.06)
    assert {len(OWLMosaic(24, (2,), (1.0,)).get_indexes(range(5))) for _ in range(9)} == {3}


def test_the_colour_between_images_is_an_option():
    assert (mosaic(1, pad_val=(1, 2, 3))["img"][-1, -1] == [1, 2, 3]).all()


@pytest.mark.parametrize("options", [{"size": 32}, {"probs": (0.5, 0.5)}, {"probs": (0.5, 0.4, 0.3)}])
def test_options_that_cannot_be_used_are_refused_by_name(options):
    with pytest.raises(ConfigError, match="OWLMosaic: "):
        OWLMosaic(**options)


def test_configs_name_it():
    made = TRANSFORMS.build({"type": "vladapt.OWLMosaic", "size": 24})
    assert "size=24" in repr(made)

"""What mm's data samples say, as plain arrays, rows and sentences."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data.outlines import decode, encode
from vladapt.domains.open_vocab.inference.predictions import PredictedBoxes, PredictedMap, deciding_first

NAMES = ("cat", "dog", "emu")


def test_boxes_come_the_surest_first_with_their_labels_and_outlines(boxes_sample):
    masks = np.zeros((3, 8, 9), bool)
    masks[0, 0], masks[1, 1], masks[2, 2] = True, True, True
    corners = [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]
    boxes = PredictedBoxes.of(boxes_sample(corners, [0.2, 0.9, 0.5], [0, 1, 2], masks))
    assert np.allclose(boxes.scores, [0.9, 0.5, 0.2]) and boxes.labels.tolist() == [1, 2, 0]
    assert boxes.boxes.tolist() == [[1, 1, 2, 2], [2, 2, 3, 3], [0, 0, 1, 1]]
    rows = [int(np.flatnonzero(decode(outline).any(axis=1))[0]) for outline in boxes.outlines]
    assert rows == [1, 2, 0] and decode(boxes.outlines[0]).shape == (8, 9)


def test_scores_that_tie_keep_the_models_order(boxes_sample):
    boxes = PredictedBoxes.of(boxes_sample([[n, 0, n + 1, 1] for n in range(5)], [0.5] * 5, [0] * 5))
    assert boxes.boxes[:, 0].tolist() == [0, 1, 2, 3, 4] and boxes.outlines is None


def test_boxes_of_mmdets_own_box_type_and_of_half_precision_are_read(boxes_sample):
    from mmdet.structures.bbox import HorizontalBoxes

    sample = boxes_sample([[0, 0, 1, 1]], [0.25], [0])
    sample.pred_instances.scores = sample.pred_instances.scores.to(torch.bfloat16)
    sample.pred_instances.bboxes = HorizontalBoxes(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    boxes = PredictedBoxes.of(sample)
    assert boxes.boxes.tolist() == [[0, 1, 2, 3]] and boxes.scores.tolist() == [0.25]


def test_nothing_found_is_a_row_too(boxes_sample):
    row = PredictedBoxes.of(boxes_sample([], [], [], np.zeros((0, 4, 4), bool))).row(NAMES)
    assert row == {"boxes": [], "scores": [], "labels": [], "masks": [], "summary": "nothing scored 0.3 or more"}


def test_a_row_is_json_and_says_names_and_a_summary(boxes_sample):
    boxes = [[0, 0, 1.23456, 1], [1, 1, 2, 2], [2, 2, 3, 3], [0, 0, 9, 9]]
    row = PredictedBoxes.of(boxes_sample(boxes, [0.9, 0.31, 0.95, 0.1], [0, 0, 1, 2])).row(NAMES)
    assert json.loads(json.dumps(row)) == row
    assert row["labels"] == ["dog", "cat", "cat", "emu"] and row["boxes"][1] == [0, 0, 1.23, 1]
    assert row["scores"] == [0.95, 0.9, 0.31, 0.1] and "masks" not in row
    assert row["summary"] == "1 dog (0.95), 2 cat (0.90)"


def test_a_summary_without_sure_boxes_says_the_best_score(boxes_sample):
    boxes = PredictedBoxes.of(boxes_sample([[0, 0, 1, 1]], [0.123], [0]))
    assert boxes.summary(NAMES) == "nothing scored 0.3 or more; the best has 0.12"


def test_a_map_is_read_with_shares_and_a_mask_a_class(map_sample):
    classes = np.zeros((10, 20), int)
    classes[:4], classes[4:5, :1] = 2, 1
    row = PredictedMap.of(map_sample(classes)).row(NAMES)
    assert json.loads(json.dumps(row)) == row
    assert list(row["shares"].items()) == [("cat", 0.595), ("emu", 0.4), ("dog", 0.005)]
    assert row["summary"] == "cat 60%, emu 40%, dog 0%"
    for label, name in enumerate(NAMES):
        assert (decode(row["masks"][name]) == (classes == label)).all()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33)])
def test_encoding_a_mask_and_decoding_it_changes_nothing(shape):
    mask = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    assert (decode(json.loads(json.dumps(encode(mask)))) == mask).all()


def test_what_decides_comes_first_where_it_is_there():
    metrics = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert list(deciding_first(metrics, ("c", "x", "b")).items()) == [("c", 3.0), ("b", 2.0), ("a", 1.0)]
